"""Centers of rows: k-means whose products are those of 8-bit codes, shared by all threads.

Blocks are the same whatever the number of threads, and so is what comes out.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.kernels.blas import one_blas_thread
from gpuvec.kernels.compiled import njit
from gpuvec.kernels.int8_parts import PARTS
from gpuvec.kernels.int8_tile import TILE_ROWS, WORD, aligned_zeros, int8_lanes
from gpuvec.kernels.ivf_batch import TURNED, encode_raw, turn_raw
from gpuvec.kernels.ivf_tile import group_addresses
from gpuvec.kernels.parallel import run_parallel
from gpuvec.kernels.quantize import LEVELS, OFFSET, SEGMENT

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
_BLOCK = 4096  # vectors of a part
_TURN = 128  # vectors whose scores stay in the second cache
_MAX_SUM = 2**29  # of an integer product


def frozen(array: Any) -> Any:
    """Return a view that cannot be written: the kernels are compiled for such."""
    view = array.view()
    view.flags.writeable = False
    return view


def tiles_of(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Return (p, dims) codes as tiles, p a multiple of TILE_ROWS."""
    rows, dims = codes.shape
    stored = (codes.astype(np.int16) + OFFSET).astype(np.uint8)
    stored = stored.reshape(rows // TILE_ROWS, TILE_ROWS, dims // WORD, WORD).transpose(0, 2, 1, 3)
    out = aligned_zeros(stored.shape, np.uint8)
    out[:] = stored
    found: NDArray[np.uint8] = frozen(out)
    return found


def half_squares(vectors: F32) -> F32:
    """Return half the square of each vector's norm."""
    half: F32 = np.einsum("ij,ij->i", vectors, vectors) / np.float32(2)
    return half


class Centers:
    """Centers to which vectors are assigned.

    Args:
        values: (c, dim).
    """

    def __init__(self, values: F32) -> None:
        self.values = values
        self._half = half_squares(values)
        self._tiles: NDArray[np.uint8] | None = None
        count, dim = values.shape
        wide = -(-dim // SEGMENT) * SEGMENT
        if not int8_lanes() or (LEVELS + OFFSET) * LEVELS * wide > _MAX_SUM:
            return
        padded = -(-count // TILE_ROWS) * TILE_ROWS
        units = np.zeros(padded, np.float32)
        units[:count] = np.abs(values).max(axis=1) / LEVELS
        codes = np.zeros((padded, wide), np.int8)
        steps = np.where(units[:count] > 0, units[:count], 1)
        codes[:count, :dim] = np.rint(values / steps[:, None])
        less = np.full(padded, np.inf, np.float32)
        less[:count] = self._half
        self._tiles, self._units, self._less = tiles_of(codes), frozen(units), less

    def nearest(self, vectors: F32) -> I64:
        """Return about the nearest center of each vector."""
        if self._tiles is None:
            scores = vectors @ self.values.T
            scores -= self._half
            found: I64 = scores.argmax(axis=1)
            return found
        out = np.empty(len(vectors), np.int64)
        codes = np.zeros((_TURN, self._tiles.shape[1] * WORD), np.int8)
        units, norms = np.empty(_TURN), np.empty(_TURN)
        scores = np.empty((_TURN, len(self._units)), np.float32)
        sums = aligned_zeros((TURNED, TILE_ROWS), np.int32)
        masks = np.zeros(TURNED * PARTS, np.uint16)
        places = np.arange(_TURN, dtype=np.int32)
        never = np.full(TURNED, np.iinfo(np.int32).max, np.int32)
        origin = frozen(np.zeros(vectors.shape[1], np.float32))
        for start in range(0, len(vectors), _TURN):
            some = frozen(vectors[start : start + _TURN])
            m = len(some)
            encode_raw(some, origin, False, codes[:m], units[:m], norms[:m])
            turn_raw(
                group_addresses(), self._tiles, self._units, self._less, codes[:m], units[:m],
                places, never, sums, masks, scores[:m],
            )  # fmt: skip
            out[start : start + m] = scores[:m].argmax(axis=1)
        return out


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _add_up(vectors: Any, nearest: Any, sums: Any, counts: Any) -> None:
    """Add each vector to its center's sum, in order."""
    for i in range(len(vectors)):
        at = nearest[i]
        counts[at] += 1
        for c in range(vectors.shape[1]):
            sums[at, c] += vectors[i, c]


def k_means(
    sample: F32, count: int, rounds: int, rng: np.random.Generator, threads: int
) -> tuple[F32, I64]:
    """Return centers and about the nearest of each vector. An empty center stays where it was.

    The first half of the rounds takes a quarter of the sample, which is enough to find the way.

    Args:
        sample: (n, dims), n at least `count`.
        count: of centers.
        rounds: of Lloyd's algorithm.
        rng: says where it starts.
        threads: 0: all cores.
    """
    values = sample[np.sort(rng.choice(len(sample), count, replace=False))]
    nearest = np.zeros(len(sample), np.int64)
    rounds = rounds if count > 1 else 1
    for turn in range(rounds):
        part = sample[::4] if turn < rounds // 2 and len(sample) >= 32 * count else sample
        nearest = assign(np.ascontiguousarray(part), Centers(values), threads)
        sums, counts = np.zeros(values.shape), np.zeros(count, np.int64)
        _add_up(part, nearest, sums, counts)
        filled = counts > 0
        values = values.copy()
        values[filled] = sums[filled] / counts[filled, None]
    return values, nearest


def assign(vectors: F32, centers: Centers, threads: int) -> I64:
    """Return about the nearest center of each vector, (n,)."""
    blocks = [vectors[start : start + _BLOCK] for start in range(0, len(vectors), _BLOCK)]
    with one_blas_thread():
        found = run_parallel(centers.nearest, blocks, threads)
    return np.concatenate(found) if found else np.zeros(0, np.int64)
