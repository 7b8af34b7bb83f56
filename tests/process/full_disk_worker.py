"""Fills a disk in the middle of a flush; says on standard output what readers then see, as JSON.

Arguments: the database, and how the disk is full: `limit` sets RLIMIT_FSIZE, a path names a file
that holds the disk's last bytes.
"""

import json
import os
import resource
import sys
from contextlib import contextmanager

import numpy as np

import gpuvec as gv

SCHEMA = gv.Schema({"id": gv.Int64(), "v": gv.Vector(64)}, "id")


def rows(first, count):
    ids = np.arange(first, first + count)
    return {"id": ids, "v": np.random.default_rng(first).standard_normal((count, 64))}


@contextmanager
def full(how):
    """Let no file grow: neither by the limit of the process, nor by the space on the disk."""
    if how == "limit":
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        return
    with open(how, "ab", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(4096))
        except OSError:
            pass
    yield
    os.unlink(how)


def main(path, how):
    seen = {}
    with gv.connect(path) as db:
        items = db.create_collection("items", SCHEMA)
        items.insert(rows(0, 150))
        with full(how):
            for what, work in (
                ("flush", items.flush),
                ("insert", lambda: items.insert(rows(500, 100))),
            ):
                try:
                    work()
                    seen[what] = "done"
                except gv.GpuvecError as error:
                    seen[what] = error.code
            seen["while full"] = items.count()
        items.insert(rows(150, 1))
        items.flush()
        seen["after a good flush"] = items.count()
    with gv.connect(path) as db:
        seen["after a restart"] = db["items"].count()
        table = db["items"].select("id", "v").to_arrow().sort_by("id")
        wanted = np.concatenate([rows(0, 150)["v"], rows(150, 1)["v"]]).astype(np.float32)
        seen["right"] = bool((np.stack(table["v"].to_numpy()) == wanted).all())
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
