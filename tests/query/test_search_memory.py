"""What a search takes beside mapped files, measured in a process of its own."""

import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, gc, sys, threading, time
import numpy as np, pyarrow as pa
import gpuvec as gv

pa.set_memory_pool(pa.system_memory_pool())
gv.config.set(progress=False)
LIMIT, K, DIM = int(sys.argv[3]) << 20, 100, 256  # of 48 MiB, a third holds an exact scan's codes
rng = np.random.default_rng(0)
middles = 1.5 * rng.normal(size=(300, DIM))


def draw(count):
    return (middles[rng.integers(0, 300, count)] + rng.normal(size=(count, DIM))).astype("f4")


def fill(db, count):
    vector = gv.Vector(DIM, metric="l2")
    schema = gv.Schema({"id": gv.Int64(), "v": vector}, primary_key="id")
    items = db.create_collection("items", schema)
    values = pa.FixedSizeListArray.from_arrays(pa.array(draw(count).ravel()), DIM)
    items.insert(pa.table({"id": np.arange(count), "v": values}))
    items.create_index("v", gv.index.IVFInt8())
    return items


def held():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def peak_of(work):
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = most = held()
    done = threading.Event()

    def watch():
        nonlocal most
        while not done.wait(0.0005):
            most = max(most, held())

    watcher = threading.Thread(target=watch)
    watcher.start()
    answer = work()
    done.set()
    watcher.join()
    return max(most, held()) - before, answer.nbytes


ways = {"exact": {"exact": True}, "index": {"params": {"effort": 0.5}}, "recall": {"recall": 0.9}}
queries = draw(5_000)
with gv.connect("memory://") as db:
    small = fill(db, 6_000)
    for options in ways.values():  # compiled bodies are loaded
        small.search(queries[:200], K, **options).to_arrow()
with gv.connect(sys.argv[1] + "/made") as db:
    fill(db, 60_000)
with gv.connect(sys.argv[1] + "/made", memory_limit=LIMIT) as db:
    grown, answer = peak_of(lambda: db["items"].search(queries, K, **ways[sys.argv[2]]).to_arrow())
print(grown - answer, LIMIT)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "mib"), [("exact", 48), ("exact", 32), ("exact", 24), ("index", 48), ("recall", 48)]
)
def test_a_search_takes_no_more_than_its_limit_beside_its_answer_and_mapped_files(
    way, mib, tmp_path
):
    run = [sys.executable, "-c", SCRIPT, str(tmp_path), way, str(mib)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    taken, limit = map(int, done.stdout.split())
    assert taken <= limit
