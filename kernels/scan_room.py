"""The least memory that a scan of dense rows on the host works in, part by part.

What a batch takes beyond it follows its memory limit: fewer queries at a time, fewer rows a block.
"""

from gpuvec.kernels.parallel import thread_count

OWN_BYTES = 4 << 10  # at least what Python and NumPy hold for one call
BLOCK_BYTES = 1 << 20  # of rows that a thread measures at a time, as float32
LEAST_ROWS = 256  # of such a block
_MOST_ROWS = 2048
LEAST_QUERIES = 16  # of a batch, however little memory there is
CANDIDATES = 1024  # of a query, besides four times k
_CANDIDATE_BYTES = 16
_NEAREST_BYTES = 40  # of a row that is nearest so far
_MARK_BYTES = 9  # of a row: whether it may be found, and its place in the list of those that may

Parts = dict[str, int]


def few_room(
    shape: tuple[int, int],
    k: int,
    queries: int,
    *,
    threads: int = 0,
    masked: bool = False,
    in_place: bool = False,
) -> Parts:
    """Return bytes that a float32 scan for a few queries takes, by part.

    Args:
        shape: of the rows.
        k: neighbours per query; 0: of a range.
        queries: that are scanned together.
        threads: 0: all cores.
        masked: whether some rows may not be found.
        in_place: whether rows are measured where they lie; see `float_scan_topk`.
    """
    rows, dim = shape
    block = 0 if in_place else min(BLOCK_BYTES, 4 * rows * dim)
    candidates = _CANDIDATE_BYTES * min(rows, CANDIDATES + 4 * k) + 8 * min(rows, k)
    workers = max(1, min(thread_count(threads), rows))
    return _named(
        work=OWN_BYTES,
        marks=_MARK_BYTES * rows if masked else 0,
        block=2 * workers * block,
        candidates=(workers + 1) * queries * candidates,
    )


def batch_room(
    shape: tuple[int, int], k: int, queries: int, *, threads: int = 0, count: int = 0
) -> Parts:
    """Return bytes that a float32 scan for a batch takes with the fewest queries and rows at once.

    Args:
        shape: of the rows.
        k: neighbours per query.
        queries: of the batch.
        threads: 0: all cores.
        count: rows that may be found.
    """
    rows, dim = shape
    some, workers = min(queries, LEAST_QUERIES), thread_count(threads)
    block = min(LEAST_ROWS, rows)
    return _named(
        work=OWN_BYTES,
        marks=_MARK_BYTES * count,
        block=workers * (16 * block * dim + 8 * some * block),
        candidates=some * query_bytes(dim, min(k, rows), min(rows, CANDIDATES + 4 * k)),
    )


def plain_room(rows: int, k: int, *, masked: bool = False, held: int = 0) -> Parts:
    """Return bytes that a scan for one query takes that measures rows where they are.

    Args:
        rows: in all.
        k: neighbours.
        masked: whether some rows may not be found.
        held: what is derived from the rows first.
    """
    return {
        **_named(
            work=OWN_BYTES, marks=_MARK_BYTES * rows if masked else 0, block=0,
            candidates=_NEAREST_BYTES * min(rows, k),
        ),
        "what is derived from the rows": held,
    }  # fmt: skip


def query_bytes(dim: int, k: int, room: int) -> int:
    """Return about what each query of a batch takes, with room for so many candidates."""
    return 24 * dim + 24 * room + 8 * k


def block_rows(dim: int, memory: int, threads: int) -> int:
    """Return how many rows each thread of a batch should widen at a time."""
    share = memory // (8 * thread_count(threads))
    return max(LEAST_ROWS, min(_MOST_ROWS, min(BLOCK_BYTES, share) // (4 * dim)))


def _named(*, work: int, marks: int, block: int, candidates: int) -> Parts:
    return {
        "the call": work,
        "marks of the rows that may be found": marks,
        "the rows being measured": block,
        "candidates": candidates,
    }
