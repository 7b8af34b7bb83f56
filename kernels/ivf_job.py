"""What the compiled sweep of lists is told: one record of addresses and numbers."""

import numpy as np

_ADDRESSES = (
    # of the pack, see `IvfArrays`
    "codes", "rows", "terms", "tails", "list_tiles", "units", "steps", "losses", "norms", "spreads",
    "center_codes", "center_units",
    # of the call
    "half",  # (p,) float32, what centers' scores are less by; +inf where a list is left out
    "keep",  # (t,) int64, one bit for each row that may be found, or UNKNOWN
    "mask",  # (n,) uint8, what that is worked out from
    # of the queries, place by place: m places
    "query_codes",  # (m, stride) int8
    "facts",  # (FACTS, m) float32, see `ivf_pick`
    # of what is found, place by place
    "lows",  # (m, k) float32, the k greatest lower bounds, as a min-heap
    "filled",  # (m,) int64, how many there are
    "found",  # (m, room) int64, rows
    "highs",  # (m, room) float32, upper bounds of their scores
    "counts",  # (m,) int64, how many there are
    "lost",  # (m,) int64, 1: more rows might matter than there is room for
    # of working memory
    "groups",  # see `group_addresses`
    "scores",  # (p, row_bytes / 4) float32, of centers
    "tops",  # (m / 16, TILE_ROWS, 16) float32
    "chosen",  # (CHOSEN, m + 16) 4-byte numbers, see `ivf_pick`
    "places",  # (m,) int32, rising
    "never",  # (m,) int32, limits that no sum passes
    "asked",  # (ASKED,) float32
    "chosen_next",  # the same of the list that comes next
    "asked_next",
    "bias",  # (2, TILE_ROWS) int32
    "sums",  # (RUN, TILE_ROWS) int32
    "masks",  # (RUN, PARTS) uint16, rows that pass, by bits; and 8 more
    "parts",  # (RUN * PARTS + 16,) int32, places in `masks`
)  # fmt: skip
_NUMBERS = (
    "lists", "tiles", "has_terms",
    "row_steps", "center_steps", "head", "edge", "shift",  # in steps of 4 dimensions
    "flat",  # whether scores are products: for ip and cosine, not for l2
    "stride",  # bytes between the codes of two queries
    "fact_bytes", "chosen_bytes", "row_bytes",  # between rows
    "start", "size",  # places that are swept together
    "k", "room",
    "first",  # about how many lists are scanned whole: they make the floor
    "near",  # about how many are looked at before all that are within reach
)  # fmt: skip
_REALS = (
    "reach",  # spreads by which a center's score may be below the floor
    "patience",  # spreads by which a row's may be, beyond the edge
    "doubt",  # spreads of what codes lose, by which scores are widened
    "usual_steps", "usual_losses", "usual_norms",  # means over the lists
)  # fmt: skip

JOB = np.dtype(
    [(name, np.int64) for name in (*_ADDRESSES, *_NUMBERS)]
    + [(name, np.float64) for name in _REALS]
)
RUN = 128  # queries whose sums are kept between the first test and the second
UNKNOWN = -1  # bits of a tile that were not worked out
