"""Centers of rows: k-means, by matrix products that all threads share.

Blocks are the same whatever the number of threads, and so are the sums.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.kernels.blas import one_blas_thread
from gpuvec.kernels.parallel import run_parallel

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
BLOCK = 4096  # vectors multiplied at a time


def blocks(size: int) -> list[slice]:
    """Cut `range(size)` into blocks that do not depend on the number of threads."""
    return [slice(start, min(size, start + BLOCK)) for start in range(0, size, BLOCK)]


def nearest_center(vectors: F32, centers: F32, half: F32) -> I64:
    """Return the nearest center of each vector of a block.

    Args:
        vectors: (n, dims).
        centers: (c, dims).
        half: (c,), half their squares.
    """
    scores = vectors @ centers.T
    scores -= half
    found: I64 = scores.argmax(axis=1)
    return found


def half_squares(vectors: F32) -> F32:
    """Return half the square of each vector's norm."""
    half: F32 = np.einsum("ij,ij->i", vectors, vectors) / np.float32(2)
    return half


def assign(vectors: F32, centers: F32, threads: int) -> I64:
    """Return the nearest center of each vector, (n,)."""
    half = half_squares(centers)
    with one_blas_thread():
        found = run_parallel(
            lambda at: nearest_center(vectors[at], centers, half), blocks(len(vectors)), threads
        )
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def k_means(
    sample: F32, count: int, rounds: int, rng: np.random.Generator, threads: int
) -> tuple[F32, I64]:
    """Return centers and the nearest of each vector. An empty center stays where it was.

    Args:
        sample: (n, dims), n at least `count`.
        count: of centers.
        rounds: of Lloyd's algorithm.
        rng: says where it starts.
        threads: 0: all cores.
    """
    centers = sample[np.sort(rng.choice(len(sample), count, replace=False))]
    nearest = np.zeros(len(sample), np.int64)
    for _ in range(rounds if count > 1 else 1):
        nearest = assign(sample, centers, threads)
        order = np.argsort(nearest, kind="stable")
        sizes = np.bincount(nearest, minlength=count)
        filled = sizes > 0
        starts = (np.cumsum(sizes) - sizes)[filled]
        sums = np.add.reduceat(sample[order], starts, axis=0, dtype=np.float64)
        centers = centers.copy()
        centers[filled] = sums / sizes[filled, None]
    return centers, nearest


def spread_of(offsets: F32) -> Any:
    """Return the energies and axes of (n, dims) offsets about zero, falling, in float64."""
    wide = offsets.astype(np.float64)
    energy, axes = np.linalg.eigh(wide.T @ wide / max(1, len(offsets)))
    return np.maximum(energy[::-1], 0), axes[:, ::-1]
