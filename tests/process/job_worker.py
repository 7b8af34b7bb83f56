"""Begins or resumes a batch job in a process that the test may kill: folder, then a job's name."""

import sys

import numpy as np

import gpuvec as gv

ROWS, QUERIES, DIM = 2000, 600, 8


def main(folder: str, job_id: str) -> None:
    with gv.connect(f"{folder}/db") as db:
        if job_id:
            job = db.job(job_id)
            job.resume()
        else:
            job = frame(db).submit(f"{folder}/out", part_rows=10)
            print(job.id, flush=True)
        job.wait(120)
        print("done", flush=True)


def create(folder: str) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((ROWS, DIM)).astype(np.float32)
    with gv.connect(f"{folder}/db") as db:
        items = db.create_collection(
            "items", data={"id": np.arange(ROWS), "v": vectors}, primary_key="id"
        )
        items.flush()
        items.insert({"id": np.arange(ROWS, ROWS + 50), "v": vectors[:50]})  # only in the log


def frame(db: gv.Database) -> gv.Frame:
    queries = np.random.default_rng(2).standard_normal((QUERIES, DIM)).astype(np.float32)
    return db["items"].search(queries, k=3)


if __name__ == "__main__":
    main(*sys.argv[1:])
