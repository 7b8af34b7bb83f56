"""Launches the scans on tensor cores (`scan_tile.cuh`): part after part, floors rising between."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.device.arrays import array_namespace, to_device
from gpuvec.device.library import cupy_module
from gpuvec.kernels.bitset import BitSet
from gpuvec.kernels.device_scan_codes import DeviceCodes, QueryCodes
from gpuvec.kernels.launch import THREADS, card_limits, kernel_of, whole
from gpuvec.types import Array

TILE_ROWS = 128  # as in scan_tile.cuh
LOWEST = float(np.finfo(np.float32).min)  # a floor below every score, above rows that are hidden
_TILES = {16: 4, 64: 3, 128: 2}  # queries of a tile: blocks on a multiprocessor, as in SCANS
_GOLDEN = 0.618
_GATHERED = 8  # rows a block of gather_rows
_FEW = 64  # queries with which room costs little
_ROOM, _ROOM_OF_FEW = 1024, 1 << 14  # pairs of a query, beside so many times k:
_ROOM_FOR_K = 8
_TABLES = 128  # of segments and where they begin, kept on cards; 64 bytes a segment


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ScanPart:
    """Rows of one segment to be scanned.

    Attributes:
        codes: of its rows.
        vectors: (n, dim), its rows as they are stored.
        bits: rows that may be found; None: all, or those listed.
        listed: (count,) uint32, the rows to look at, rising; None: all, or those of `bits`.
        count: rows that may be found.
    """

    codes: DeviceCodes
    vectors: Array
    bits: BitSet | None = None
    listed: Array | None = None
    count: int


def lying_there(numbers: NDArray[np.int64]) -> Array:
    """Return numbers on the current card, of this shape; those of late scans are there already.

    They say where segments lie and begin, so that scan after scan of the same ones asks for the
    same; that way queries alone go up.
    """
    card = cupy_module()
    found = _lying_there(card, int(card.cuda.runtime.getDevice()), numbers.tobytes())
    return found.reshape(numbers.shape)


@lru_cache(maxsize=_TABLES)
def _lying_there(card: Any, device: int, numbers: bytes) -> Array:
    del card, device  # only tell one from another
    return to_device(np.frombuffer(numbers, np.int64), "queries")


class Table:
    """Where the rows of several segments lie; they have codes of one kind and one origin.

    Args:
        parts: at least one; each with at least one row.
    """

    def __init__(self, parts: Sequence[ScanPart]) -> None:
        first = parts[0].codes
        for part in parts:
            own = part.codes
            if (own.kind, own.metric) != (
                first.kind,
                first.metric,
            ) or own.origin is not first.origin:
                raise AssertionError("segments of one scan have codes of one kind and one origin")
        looked_at = np.array([_looked_at(part) for part in parts], np.int64)
        self.tile_starts = np.concatenate([[0], np.cumsum(-(-looked_at // TILE_ROWS))])
        self.place_starts = np.concatenate([[0], np.cumsum([len(part.vectors) for part in parts])])
        if self.place_starts[-1] >= 1 << 32:
            raise AssertionError("one scan goes through fewer than 2^32 rows")
        lines = [
            (
                _address(part.codes.codes), _address(part.codes.values),
                0 if part.bits is None else _address(part.bits.words),
                0 if part.listed is None else _address(part.listed),
                looked_at[i], self.tile_starts[i], self.place_starts[i], _address(part.vectors),
            )
            for i, part in enumerate(parts)
        ]  # fmt: skip
        self.array = lying_there(np.array(lines, np.int64))
        self.tiles = int(self.tile_starts[-1])
        self.rows = int(looked_at.sum())
        self.passing = sum(part.count for part in parts)
        self._parts = parts  # whose memory the table points to

    def __len__(self) -> int:
        return len(self._parts)

    def gather(self, places: Array) -> Array:
        """Return the stored rows at (p,) uint32 places, (p, dim)."""
        like = self._parts[0].vectors
        out = array_namespace(places).empty((len(places), like.shape[1]), like.dtype)
        kernel_of("scan_gather.cu", "gather_rows").launch(
            (-(-len(places) // _GATHERED),), (THREADS,),
            self.array, whole(len(self)), places, whole(len(places)),
            whole(like.shape[1] * like.dtype.itemsize), out.view(np.uint8),
        )  # fmt: skip
        return out


def _looked_at(part: ScanPart) -> int:
    return len(part.vectors) if part.listed is None else len(part.listed)


def _address(array: Array) -> int:
    """Return where an array lies in device memory."""
    if not array.flags.c_contiguous:
        raise AssertionError("kernels read whole arrays")
    return int(array.data.ptr)


@dataclass(slots=True, eq=False)
class Pairs:
    """What a scan has kept of each query; one launch after the other writes it.

    Attributes:
        counts: (m,) uint32; after `tighten` at most `room`.
        places: (m, room) uint32 numbers of rows among those of all segments, unordered.
        uppers: (m, room) float32, no less than the scores.
        lowers: (m, room) float32, no more than the scores.
        floors: (m,) float32; rows below them were left out.
        dropped: (m,) uint32, `order_of` the best row for which there was no room; 0: none.
    """

    counts: Array
    places: Array
    uppers: Array
    lowers: Array
    floors: Array
    dropped: Array

    @classmethod
    def make(cls, floors: Array, room: int) -> "Pairs":
        """Return no pairs yet, with room for so many a query."""
        xp, m = array_namespace(floors), len(floors)
        return cls(
            xp.zeros(m, xp.uint32), xp.empty((m, room), xp.uint32), xp.empty((m, room), xp.float32),
            xp.empty((m, room), xp.float32), floors, xp.zeros(m, xp.uint32),
        )  # fmt: skip

    @property
    def room(self) -> int:
        """Pairs that fit, of a query."""
        return int(self.places.shape[1])

    def dropped_scores(self) -> Array:
        """Return (m,) float64, no row without room had more; -inf where there was room for all."""
        xp = array_namespace(self.dropped)
        top = xp.uint32(1 << 31)
        bits = xp.where(self.dropped >= top, self.dropped ^ top, ~self.dropped)
        scores = bits.astype(xp.uint32).view(xp.float32).astype(xp.float64)
        return xp.where(self.dropped == 0, -xp.inf, scores)


def room_of(k: int, queries: int) -> int:
    """Return for how many pairs of a query there should be room; more, and fewer parts are made."""
    return (_ROOM_OF_FEW if queries <= _FEW else _ROOM) + _ROOM_FOR_K * k


def sweep(table: Table, kind: str, asked: QueryCodes, pairs: Pairs, k: int) -> None:
    """Scan all rows of a table; in `pairs` stays whatever may be among the k best.

    The first part of the rows fills half the room, each further one has so many times the rows
    before it that its share of the k best fits, by expectation. Between two parts floors rise.

    Cost: `work_of`; large batches read the codes from memory once too, as blocks that work side by
        side take the same rows. Between parts a read of what was kept.
    """
    per_tile = TILE_ROWS * table.passing / max(1, table.rows)
    size = max(1, int(pairs.room / 2 / max(per_tile, 1e-9)))
    growth = max(2, pairs.room // (4 * k))
    done = 0
    while done < table.tiles:
        size = min(size, table.tiles - done)
        scan_tiles(table, kind, asked, pairs, done, size)
        tighten(pairs, k)
        done += size
        size = done * (growth - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one pass of a scan over all rows asks of a card; its roof is the slower of the two.

    Attributes:
        operations: multiplications and additions on tensor cores.
        read_bytes: of codes and what goes with them, read once; queries stay in the cache.
    """

    operations: int
    read_bytes: int


def work_of(rows: int, queries: int, codes: DeviceCodes) -> Work:
    """Return the work of a scan of so many rows, all with codes of a width, by so many queries.

    2 operations a value and pair, the values that fill the last 16 bytes included; codes and 16
    bytes a row. Nothing is written but what is kept: 12 bytes a pair.
    """
    width = int(codes.codes.shape[1])
    values = width if codes.kind == "int8" else width // 2
    return Work(operations=2 * rows * queries * values, read_bytes=rows * (width + 16))


def stride(tiles: int) -> int:
    """Return a step that visits all tiles, evenly from the first on."""
    step = max(1, int(tiles * _GOLDEN))
    while gcd(step, tiles) != 1:
        step += 1
    return step


def scan_tiles(
    table: Table, kind: str, asked: QueryCodes, pairs: Pairs, first: int, count: int
) -> None:
    """Append the pairs of some tiles that reach their queries' floors.

    Args:
        table: of all rows.
        kind: of their codes.
        asked: the queries.
        pairs: written.
        first: of the tiles, in the order of `stride`.
        count: of tiles.
    """
    m, width = asked.codes.shape
    size = next((size for size in _TILES if m <= size), max(_TILES))
    grid = min(count * -(-m // size), card_limits().multiprocessors * _TILES[size])
    kernel_of(f"scan_{kind}.cu", f"scan_{kind}_{size}").launch(
        (grid,), (TILE_ROWS,),
        table.array, whole(len(table)), whole(table.tiles), whole(stride(table.tiles)),
        whole(first), whole(count),
        asked.codes, asked.values, pairs.floors, whole(m), whole(width),
        pairs.counts, pairs.places, pairs.uppers, pairs.lowers, pairs.dropped, whole(pairs.room),
    )  # fmt: skip


def tighten(pairs: Pairs, k: int) -> None:
    """Raise floors to the k-th greatest lower bounds, and drop pairs below them."""
    kernel_of("scan_tighten.cu", "scan_tighten").launch(
        (len(pairs.floors),), (THREADS,),
        pairs.counts, pairs.places, pairs.uppers, pairs.lowers, pairs.floors,
        whole(pairs.room), whole(k),
    )  # fmt: skip
