"""How work on tiles of rows is cut so that it fits into booked memory."""

from dataclasses import dataclass

from gpuvec.kernels.bitset import WORD

ROW_TILE = 1 << 18
QUERY_TILE = 1024
_SMALL_BYTES = 4 << 10  # of many small arrays


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Bytes that work takes.

    Attributes:
        query_bytes: of each query of a pass over the rows.
        step_bytes: of each query of a step, which meets one tile.
        pair_bytes: of each pair of a step.
        row_bytes: of each row of a tile.
    """

    query_bytes: int
    step_bytes: int
    pair_bytes: int
    row_bytes: int

    def of(self, wave: int, step: int, rows: int) -> int:
        """Return what a pass takes whose steps are some of its queries by so many rows."""
        of_step = step * (self.step_bytes + self.pair_bytes * rows)
        return _SMALL_BYTES + self.query_bytes * wave + of_step + self.row_bytes * rows

    @property
    def least(self) -> int:
        """What one query takes with the fewest rows."""
        return self.of(1, 1, WORD)

    def most(self, queries: int, rows: int) -> int:
        """Return what is of use for so many queries and rows."""
        tile = max(WORD, min(rows, ROW_TILE))
        return max(self.least, self.of(queries, min(queries, QUERY_TILE), tile))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cuts:
    """Sizes of pieces.

    Attributes:
        wave: queries that one pass over the rows answers.
        step: of them, that meet a tile at a time.
        rows: of a tile, a multiple of a word's bits.
    """

    wave: int
    step: int
    rows: int


def cuts(need: Need, queries: int, granted: int) -> Cuts:
    """Cut work for some queries: few passes come first, then large steps, then large tiles."""
    step_bytes = need.of(0, 1, WORD)
    wave = max(1, min(queries, (granted - step_bytes) // max(1, need.query_bytes)))
    left = granted - _SMALL_BYTES - need.query_bytes * wave
    per_query = need.step_bytes + need.pair_bytes * WORD
    step = max(1, min(wave, QUERY_TILE, (left // 2 - need.row_bytes * WORD) // per_query))
    rows = (left - need.step_bytes * step) // (need.row_bytes + need.pair_bytes * step)
    return Cuts(wave=wave, step=step, rows=max(1, rows // WORD) * WORD)


def pieces(count: int, size: int) -> list[slice]:
    """Return ranges of so many things."""
    return [slice(start, min(count, start + size)) for start in range(0, count, size)]
