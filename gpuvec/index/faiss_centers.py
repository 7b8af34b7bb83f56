"""Centers of lists: k-means whose distances FAISS computes, on threads of our own.

FAISS's own training shares its work out over an OpenMP team in every round, which stalls for as
long as any core is held by another process. Here parts wait for nobody, and the centers are the
same on any number of threads.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.index.faiss_library import faiss_library, openmp_threads
from gpuvec.kernels.parallel import core_count, run_parallel, split

_ROUNDS = 10
_PER_CENTER = 64  # rows a center is learned from
_LEAST_PER_CENTER = 39  # fewer make centers of single rows
_PART = 1024  # rows assigned together
_BLOCK_BYTES = 4 * 1024 * _PART  # of distances that FAISS keeps while it assigns a part


def list_count(wanted: int | None, rows: int) -> int:
    """Return how many lists rows are put into: what was wanted, else about 4 times their root."""
    if wanted is not None:
        return max(1, min(wanted, rows))
    return max(1, min(int(4 * math.sqrt(rows)), rows // _LEAST_PER_CENTER))


def sample_size(n_lists: int, rows: int) -> int:
    """Return how many rows centers are learned from."""
    return min(rows, max(_PER_CENTER * n_lists, 1024))


def training_bytes(rows: int, dim: int, n_lists: int) -> int:
    """Return bytes of a sample and all that learning from it takes."""
    return 4 * dim * (sample_size(n_lists, rows) + 6 * n_lists)


def assigning_bytes() -> int:
    """Return bytes of distances while rows are assigned to centers, on all cores."""
    return core_count() * _BLOCK_BYTES


def train_centers(
    sample: NDArray[np.float32], n_lists: int, *, unit: bool, threads: int
) -> NDArray[np.float32]:
    """Return (n_lists, dim) float32 centers of a sample of rows.

    Args:
        sample: (s, dim) float32, C-contiguous, in random order; s may be below `n_lists`.
        n_lists: at least 1.
        unit: whether centers have length 1, as the rows do.
        threads: 0: all cores.

    Cost: s x n_lists distances a round.
    """
    if len(sample) == 0:
        return np.zeros((n_lists, sample.shape[1]), np.float32)
    centers: NDArray[Any] = np.resize(sample[:n_lists], (n_lists, sample.shape[1]))
    for turn in range(_ROUNDS):
        owner = nearest_centers(sample, centers, threads=threads)
        centers = _means(sample, owner, centers, np.random.default_rng(turn))
        if unit:
            lengths = np.linalg.norm(centers, axis=1, keepdims=True)
            centers = centers / np.where(lengths > 0, lengths, 1)
    return np.ascontiguousarray(centers, np.float32)


def nearest_centers(
    rows: NDArray[np.float32], centers: NDArray[np.float32], *, threads: int
) -> NDArray[np.int64]:
    """Return (n,) int64, the center nearest to each of (n, dim) float32 rows."""
    flat = faiss_library().IndexFlatL2(int(centers.shape[1]))
    flat.add(np.ascontiguousarray(centers, np.float32))

    def assign(part: tuple[int, int]) -> Any:
        with openmp_threads(1):
            return flat.search(rows[slice(*part)], 1)[1][:, 0]

    parts = split(len(rows), -(-len(rows) // _PART) or 1)
    return np.concatenate(run_parallel(assign, parts, threads))


def _means(
    rows: NDArray[np.float32],
    owner: NDArray[np.int64],
    centers: NDArray[np.float32],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Return the mean of each center's rows; a center without any gets a row of a full one."""
    counts = np.bincount(owner, minlength=len(centers))
    sums = np.zeros(centers.shape, np.float64)
    for start in range(0, len(rows), _PART):
        part = owner[start : start + _PART]
        lists, starts = np.unique(np.sort(part), return_index=True)
        sorted_rows = rows[start : start + _PART][np.argsort(part, kind="stable")]
        sums[lists] += np.add.reduceat(sorted_rows, starts, axis=0)
    found = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centers)
    found = found.astype(np.float32)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        weight = counts[owner] - 1.0  # of each row: those of full lists are likely to be taken
        if weight.sum() > 0:
            taken = rng.choice(len(rows), len(empty), p=weight / weight.sum())
            found[empty] = rows[taken]
    return found
