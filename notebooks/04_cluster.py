# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # From a directory to a cluster
#
# One process is enough for a long time. When it is not, the same files are served by several. This
# notebook begins with a directory, starts a cluster on it, runs a batch job, kills a worker, and
# goes on.

# %%
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import distributed
import numpy as np
import pyarrow.parquet as pq

import gpuvec as gv

gv.config.set(progress=False)
folder = tempfile.TemporaryDirectory()
os.chdir(folder.name)
os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
df = gv.datasets.products(10_000)
df.to_parquet("rows.parquet")

# %% [markdown]
# ## 1. Three commands
#
# The first imports rows in one process. The second serves the directory: a scheduler and two
# workers (port 0 takes any free one; leave `--port` and `--dashboard` out on a machine of your
# own). The third is any program that connects.

# %%
subprocess.run(
    shlex.split("gpuvec import rows.parquet --to ./shop/items --primary-key id"), check=True
)
with gv.connect("./shop") as alone:
    query = df["embedding"][0]
    true = alone["items"].search(query, k=5, exact=True).select("id", "distance").to_pandas()
    batch = np.stack(df["embedding"][:250])  # the first batch compiles; processes here share that
    alone["items"].search(batch, k=5).collect()

# %%
command = "gpuvec cluster start ./shop --workers 2 --port 0 --dashboard 127.0.0.1:0"
with open("cluster.log", "w") as log:
    cluster = subprocess.Popen(shlex.split(command), stdout=log, stderr=log)


def address() -> str:
    """Return where the scheduler answers, once the cluster has said so."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        for word in Path("cluster.log").read_text().split():
            if word.startswith("tcp://"):
                return word.strip(",.;")
        time.sleep(0.1)
    raise TimeoutError(Path("cluster.log").read_text())


# %%
db = gv.connect("./shop", cluster=address())
items = db["items"]
found = items.search(query, k=5, exact=True).select("id", "distance").to_pandas()
assert found.equals(true), "the same rows in the same order, whoever searches"
print(f"{items.count():,} rows; the nearest are {found['id'].tolist()}")

# %% [markdown]
# Everything else is as before: the same methods, the same errors, writes that are durable when
# their call returns. `create_index` is built by the workers, `recall=` means what it says, and a
# plan tells which node answers for what:

# %%
print(items.search(np.stack(df["embedding"][:100]), k=10, recall=0.95).explain(analyze=True))

# %% [markdown]
# ## 2. A batch job
#
# It belongs to the database, not to this process: parts are tasks of the cluster, what is done is
# noted in the store, and after any crash only missing parts are made.

# %%
job = items.search(np.stack(df["embedding"][:2000]), k=5).submit("neighbours", part_rows=250)
print(job.status, f"{job.progress:.0%}")

# %% [markdown]
# ## 3. Kill a worker
#
# `kill -9`, while the job runs. Searches are answered by the other worker at once; a collection
# that the dead one owned gets another owner when its lease has run out, three seconds; and the
# cluster starts the worker again.

# %%
with distributed.Client(address(), set_as_default=False) as client:
    pids = client.run(os.getpid)
os.kill(next(iter(pids.values())), signal.SIGKILL)

begun = time.monotonic()
found = items.search(query, k=5, exact=True).select("id", "distance").to_pandas()
print(f"a search took {time.monotonic() - begun:.2f} s")
assert found.equals(true)

begun = time.monotonic()
new = df.head(1).assign(id=10_000_000)
items.insert(new)
print(f"an insert took {time.monotonic() - begun:.2f} s; {items.count():,} rows")
assert items.count() == 10_001

# %% [markdown]
# The job does not mind:

# %%
neighbours = job.wait(300).to_arrow()
assert len(neighbours) == 2000 * 5, "each query is answered once"
print(
    job.status,
    f"{len(neighbours):,} rows in",
    *sorted(p.name for p in Path("neighbours").iterdir()),
)

# %% [markdown]
# ## 4. And back
#
# A cluster that ends leaves a directory. One process opens it as if nothing had happened.

# %%
db.close()
cluster.send_signal(signal.SIGINT)
cluster.wait(120)
with gv.connect("./shop") as alone:
    print(f"{alone['items'].count():,} rows")
    assert pq.read_table("neighbours").num_rows == 10_000
os.chdir("/")
folder.cleanup()
