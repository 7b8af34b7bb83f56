"""Rounds of: write, flush, index, compact and vacuum with threads, die by kill -9; then look.

Each round is a fork of this process, which itself never opens the database. Prints how many
writes were acknowledged. Arguments: a folder, how many rounds, a seed, the number of channels; and
the endpoint of an S3 server, if the databases shall lie there.
"""

import os
import random
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np

import gpuvec as gv
from gpuvec.testing.servers import BUCKET, Server

ROWS = 10
WRITERS = 4
DIM = 16
ROUNDS_OF_ONE = 20  # on one database
LONGEST_VACUUM_S = 20.0  # until no file is left for nothing


def connect(path):
    """Open the database of a path: there, or in the bucket of the server that the command names."""
    if len(sys.argv) < 6:
        return gv.connect(path / "db")
    server = Server(sys.argv[5])
    return gv.connect(f"s3://{BUCKET}{path.resolve()}", storage_options=server.options)


def write_until_killed(path, first_batch):
    """Insert batches and delete some again; note every attempt and every acknowledgement."""
    notes = os.open(path / "notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    items = connect(path)["items"]

    def note(text):
        os.write(notes, f"{text}\n".encode())

    def write(writer):
        batch = first_batch + writer
        while True:
            keys = np.arange(batch * ROWS, (batch + 1) * ROWS)
            note(f"try {batch}")
            items.insert({"key": keys, "v": np.full((ROWS, DIM), batch % 1000, np.float32)})
            note(f"done {batch}")
            if batch % 3 == 0:
                note(f"kill {batch}")
                items.delete(ids=keys)
                note(f"gone {batch}")
            batch += WRITERS

    def index():
        while True:
            items.create_index("key", gv.index.Sorted())
            note("index 0")
            time.sleep(0.02)
            if os.urandom(1)[0] < 64:
                items.drop_index("key")

    threads = [threading.Thread(target=write, args=(n,)) for n in range(WRITERS)]
    threads += [
        threading.Thread(target=for_ever, args=(items.flush, 0.01)),
        threading.Thread(target=for_ever, args=(items.compact, 0.02)),
        threading.Thread(target=for_ever, args=(lambda: items.vacuum("0s"), 0.05)),
        threading.Thread(target=index),
    ]
    for thread in threads:
        thread.start()
    threads[0].join()


def for_ever(work, pause_s):
    while True:
        work()
        time.sleep(pause_s)


def look(path):
    """Compare what is there with what was noted; the next process also writes."""
    notes = {}
    for line in (path / "notes").read_text().splitlines():
        word, batch = line.split()
        if word != "index":
            notes[int(batch)] = word
    with connect(path) as db:
        items = db["items"]
        table = items.to_arrow()
        keys = table["key"].to_numpy()
        assert len(np.unique(keys)) == len(keys), "a key is there twice"
        values = np.stack(table["v"].to_numpy()) if len(keys) else np.zeros((0, DIM))
        assert (values == (keys // ROWS % 1000)[:, None]).all(), "a vector is another row's"
        assert_writes_are_whole(items)
        counts = dict(zip(*np.unique(keys // ROWS, return_counts=True), strict=True))
        assert set(counts) <= set(notes), "rows that nobody wrote"
        for batch, word in notes.items():
            wanted = {"try": (0, ROWS), "done": (ROWS,), "kill": (0, ROWS), "gone": (0,)}[word]
            assert counts.get(batch, 0) in wanted, f"batch {batch}: {counts.get(batch, 0)} {word}"
        look_at_indexes(items, keys)
        look_at_files(items)
    return len(notes)


def look_at_files(items):
    """After vacuums, the store holds the files that the manifest names, and no others.

    One may not be enough: the builder works meanwhile, and a file that is younger than the grace
    is marked by one vacuum and may be deleted by the next.
    """
    engine, prefix = items._engine, f"collections/{items._id}"
    until_s = time.monotonic() + LONGEST_VACUUM_S
    while True:
        report = items.vacuum("0s")
        state = engine.state(items._id)
        named = {file for record in state.segments.values() for file in files_of(record)}
        there = {
            key for part in ("seg", "dv", "idx") for key in engine.store.list(f"{prefix}/{part}/")
        }
        if there == named:
            return
        told = f"{len(there - named)} files for nothing, {len(named - there)} missing; {report}"
        assert time.monotonic() < until_s, told


def files_of(record):
    found = [record.files["scalar"]["key"], *(f["key"] for f in record.files["vectors"].values())]
    found += [record.deletes["key"]] if record.deletes else []
    return found + [f["key"] for index in record.indexes.values() for f in index.files.values()]


def assert_writes_are_whole(items):
    """Compare what the history tells of each write with the rows of a batch."""
    for line in items.versions().to_arrow().to_pylist():
        if line["operation"] == "insert":
            assert line["inserted"] == ROWS, f"a write of {line['inserted']} rows"


def look_at_indexes(items, keys):
    """Read every index file; answer with what is there, then build what is missing."""
    middle = int(np.median(keys)) if len(keys) else 0
    for _ in range(2):
        with items._source.snapshot() as snapshot:
            for view in snapshot:
                found = view.index("key")
                assert found is None or found.files()
        assert items.filter(f"key < {middle}").count() == (keys < middle).sum()
        report = items.create_index("key", gv.index.Sorted())
        assert report.waiting == 0


def in_child(work):
    """Run `work` in a fork; return the child's process id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def wait_for(file, text):
    """Wait until a writer has noted something."""
    while not (file.exists() and text in file.read_text()):
        time.sleep(0.005)


def create(path, channels):
    schema = gv.Schema({"key": gv.Int64(), "v": gv.Vector(DIM)}, "key")
    with connect(path) as db:
        db.create_collection("items", schema, channels=channels)


def main(folder, rounds, seed, channels):
    chance = random.Random(seed)
    acknowledged = 0
    for number in range(rounds):
        path = Path(folder) / str(number // ROUNDS_OF_ONE)
        if number % ROUNDS_OF_ONE == 0:
            path.mkdir()
            assert os.waitpid(in_child(lambda path=path: create(path, channels)), 0)[1] == 0
        child = in_child(lambda path=path, n=number: write_until_killed(path, n * 10**6))
        if number % 4:  # else it may die while it opens
            wait_for(path / "notes", f"done {number * 10**6}")
        time.sleep(chance.uniform(0.01, 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if not (path / "notes").exists():
            continue
        if os.waitpid(in_child(lambda path=path: look(path)), 0)[1] != 0:
            sys.exit(f"round {number} of seed {seed}")
    for notes in Path(folder).glob("*/notes"):
        acknowledged += sum(line.startswith("done") for line in notes.read_text().splitlines())
    print(acknowledged)


if __name__ == "__main__":
    for name in gv.__all__:
        getattr(gv, name)  # imported once, before the forks
    gv.config.set(store__grace_s=0.1)
    main(sys.argv[1], *map(int, sys.argv[2:5]))
