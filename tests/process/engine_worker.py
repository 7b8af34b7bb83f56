"""Writes and flushes in a database; says on standard output which steps were acknowledged."""

import os
import sys

import numpy as np

import gpuvec as gv


def rows(first, count=10):
    ids = np.arange(first, first + count)
    return {"id": ids, "v": np.repeat(ids[:, None], 4, axis=1).astype(np.float32)}


STEPS = [
    (lambda db: db.create_collection("items", SCHEMA), lambda ids: ids),
    (lambda db: db["items"].insert(rows(0)), lambda ids: ids | set(range(10))),
    (lambda db: db["items"].flush(), lambda ids: ids),
    (lambda db: db["items"].delete(ids=[1, 2]), lambda ids: ids - {1, 2}),
    (lambda db: db["items"].upsert(rows(5)), lambda ids: ids | set(range(5, 15))),
    (lambda db: db["items"].flush(), lambda ids: ids),
    (lambda db: db["items"].truncate(), lambda ids: set()),
    (lambda db: db["items"].insert(rows(30)), lambda ids: ids | set(range(30, 40))),
]
SCHEMA = gv.Schema({"id": gv.Int64(), "v": gv.Vector(4)}, "id")


def main(path):
    with gv.connect(path) as db:
        for number, (step, _) in enumerate(STEPS):
            step(db)
            os.writev(1, [f"{number}\n".encode()])  # not `write`, whose calls are the database's


if __name__ == "__main__":
    main(sys.argv[1])
