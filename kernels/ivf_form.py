"""The form of packed rows and of what is asked of them: nothing here needs compiled code."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuvec.types import Metric

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


def is_flat(metric: Metric) -> bool:
    """Return whether scores are products: for ip and cosine, not for l2."""
    return metric in (Metric.IP, Metric.COSINE)


class IvfArrays(NamedTuple):
    """Lists of tiles. t tiles, l lists, p = l padded to whole tiles.

    Attributes:
        codes: (t, steps, TILE_ROWS, WORD) uint8, of offsets from the lists' centers.
        rows: (t, TILE_ROWS) int64 positions; -1 for padding, at the end of lists.
        terms: (2, t, TILE_ROWS) float32, see `encode_lists`; (2, 0, TILE_ROWS) but for l2.
        tails: (t,) float32, how much farther than the mean row the tile's rows reach beyond `edge`.
        list_tiles: (l + 1,) int64, first tile of each list.
        units: (l,) float64, the codes' step beyond the head.
        steps: (l,) float64, that and the center's.
        losses: (l,) float64, spread of what a query's rounding takes off scores, in its steps.
        norms: (l,) float64, root mean square of the rows' norms.
        spreads: (p,) float32, how much farther than the mean row the list's rows reach.
        center_codes: (p / TILE_ROWS, center steps, TILE_ROWS, WORD) uint8.
        center_units: (p,) float32; 0 for padding.
        center_half: (p,) float32, half squares of the centers (0 but for l2); +inf for padding.
    """

    codes: NDArray[np.uint8]
    rows: I64
    terms: F32
    tails: F32
    list_tiles: I64
    units: F64
    steps: F64
    losses: F64
    norms: F64
    spreads: F32
    center_codes: NDArray[np.uint8]
    center_units: F32
    center_half: F32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IvfPack:
    """Packed rows, and how queries become codes.

    Attributes:
        metric: dense.
        origin: see `Fit`.
        rotation: (dim, dims) float32.
        turn: (p / TILE_ROWS, dim / WORD, TILE_ROWS, WORD) uint8, codes of its columns, p = dims
            padded to whole tiles; (0, ...) where codes are too coarse for the rotation.
        turn_units: (p,) float32, their steps.
        variance: (dims,) float32, of offsets from centers.
        reach: (2,) float64, for l2: spread of a row's score at distance 1 of the center, with all
            dimensions and beyond `edge`; (0,): flat.
        edge: see `Fit`.
        head: see `Fit`.
        row_shift: see `Fit`.
        query_shift: see `Fit`.
        unit: see `Fit`.
        rest: see `Fit`.
        arrays: the lists.
    """

    metric: Metric
    origin: F32
    rotation: F32
    turn: NDArray[np.uint8]
    turn_units: F32
    variance: F32
    reach: F64
    edge: int
    head: int
    row_shift: int
    query_shift: int
    unit: float
    rest: float
    arrays: IvfArrays

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        own = self.rotation.nbytes + self.turn.nbytes
        return own + sum(int(part.nbytes) for part in self.arrays)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How thorough a search is.

    Attributes:
        reach: spreads by which a list's center may lie below a query's floor.
        patience: spreads by which a row may lie below it at the first edge.
        doubt: spreads of what codes lose, by which scores are widened.
    """

    reach: float
    patience: float
    doubt: float = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Which rows may be found, tile by tile.

    Attributes:
        tiles: (t,) int64, one bit a row; see `sweep_lists`.
        half: (p,) float32, `IvfArrays.center_half`, +inf for lists without such rows.
        rows: how many there are.
        lists: that have any.
    """

    tiles: I64
    half: F32
    rows: int
    lists: int
