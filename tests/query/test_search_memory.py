"""What a search takes beside mapped files, measured in a process of its own."""

import os
import subprocess
import sys

import numpy as np
import pytest

import gpuvec as gv

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


LARGE = """
import sys
sys.argv[2:] = ["exact", "16"]
code = open(sys.argv[1] + "/script.py").read().split("ways = ")[0].replace("100, 256", "10, 256")
exec(code.replace('    items.create_index("v", gv.index.IVFInt8())', "    items.flush()"))
queries = draw(150)
for limit in (None, 1 << 20):
    with gv.connect("memory://", memory_limit=limit) as db:  # compiled bodies are loaded
        fill(db, 6_000).search(queries, K, exact=True).to_arrow()
truth = []
with gv.connect(sys.argv[1] + "/made") as db:
    items = fill(db, 10_000)
    for start in range(10_000, 170_000, 10_000):
        values = pa.FixedSizeListArray.from_arrays(pa.array(draw(10_000).ravel()), DIM)
        items.insert(pa.table({"id": np.arange(start, start + 10_000), "v": values}))
    items.flush()
    truth = items.search(queries, K, exact=True).to_arrow()
with gv.connect(sys.argv[1] + "/made", memory_limit=LIMIT) as db:
    found = []
    search = lambda: found.append(db["items"].search(queries, K, exact=True).to_arrow()) or found[0]
    grown, answer = peak_of(search)
assert found[0].equals(truth)
print(grown - answer, LIMIT)
"""


@pytest.mark.slow
def test_a_database_of_ten_times_the_limit_is_answered_exactly_within_it(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    run = [sys.executable, "-c", LARGE, str(tmp_path)]
    fixed = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed goes back at once
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=fixed)
    assert done.returncode == 0, done.stderr
    taken, limit = map(int, done.stdout.split())
    assert 10 * limit <= 170_000 * 256 * 4
    assert taken <= limit


def test_a_limit_that_no_search_fits_is_refused_with_its_parts(tmp_path):
    rng = np.random.default_rng(0)
    rows, queries = rng.normal(size=(20_000, 64)).astype("f4"), rng.normal(size=(70, 64))
    with gv.connect(tmp_path / "db") as db:
        schema = gv.Schema({"id": gv.Int64(), "v": gv.Vector(64, metric="l2")}, primary_key="id")
        items = db.create_collection("items", schema)
        items.insert({"id": np.arange(len(rows)), "v": rows})
        items.flush()
        wanted = items.search(queries, k=3, exact=True).to_arrow()
    for limit in ("2kB", "64KiB"):
        with gv.connect(tmp_path / "db", memory_limit=limit) as db:
            for search in (
                lambda: db["items"].search(queries[:1], k=3).to_arrow(),
                lambda: next(iter(db["items"].search(queries, k=3).to_batches(10))),
                lambda: db["items"].filter("id > 10").search(queries[:1], k=3).to_arrow(),
                lambda: db["items"].search(queries[:1], k=None, radius=5).to_arrow(),
            ):
                with pytest.raises(gv.DeviceMemoryError, match="memory_limit") as caught:
                    search()
                assert caught.value.code == "GV-403"
                details = caught.value.details
                assert sum(details["parts"].values()) == details["needed"] > details["limit"]
    for limit in ("1MiB", "4MiB", "24MiB"):
        with gv.connect(tmp_path / "db", memory_limit=limit) as db:
            assert db["items"].search(queries, k=3, exact=True).to_arrow().equals(wanted)
