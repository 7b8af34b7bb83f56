"""Working memory of searches, kept from one to the next: fresh pages cost more than they look.

A `WorkPool` belongs to an index; each thread that searches borrows one `Work`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.kernels.int8_parts import PARTS
from gpuvec.kernels.int8_tile import TILE_ROWS, WORD, aligned_zeros
from gpuvec.kernels.ivf_form import IvfPack, is_flat
from gpuvec.kernels.ivf_ir import LANES
from gpuvec.kernels.ivf_job import JOB, RUN
from gpuvec.kernels.ivf_pick import ASKED, CHOSEN, FACTS
from gpuvec.kernels.ivf_tile import group_addresses
from gpuvec.kernels.quantize import SEGMENT

LEAST_QUERIES = 16  # that there is always room for
FIXED_BYTES = 4 * RUN * (TILE_ROWS + PARTS) + 2 * RUN * PARTS  # of a `Work`, whatever its size


class Work:
    """Memory for up to `size` queries over a pack.

    Args:
        pack: of the rows; its arrays must not move.
        size: of queries.
    """

    def __init__(self, pack: IvfPack, size: int) -> None:
        size = -(-max(size, LEAST_QUERIES) // LANES) * LANES
        dims, lists = len(pack.variance), len(pack.arrays.units)
        self.pack = pack
        self.size = size
        self.groups = group_addresses()
        self.raw_codes = np.zeros((size, -(-pack.origin.size // SEGMENT) * SEGMENT), np.int8)
        self.raw_units = np.empty(size)
        self.norms, self.noise = np.empty(size), np.empty(size)
        self.turned = np.empty((size, len(pack.turn_units)), np.float32)
        self.less = np.zeros(len(pack.turn_units), np.float32)
        self.turn_step = float(np.square(pack.turn_units[:dims], dtype=np.float64).mean())
        self.codes = np.zeros((size, dims), np.int8)
        self.members, self.ends = np.empty(size, np.int64), np.empty(size, np.int64)
        self.units = np.empty(size)
        self.places = np.arange(size, dtype=np.int32)
        self.never = np.full(size, np.iinfo(np.int32).max, np.int32)
        self.sums = aligned_zeros((RUN, TILE_ROWS), np.int32)
        self.masks = aligned_zeros((RUN * PARTS + 8,), np.uint16)
        center = pack.arrays.center_codes.shape[1] * WORD
        self.shape = np.array(
            [pack.head, pack.edge, center, pack.row_shift, pack.query_shift], np.int64
        )
        self._held: dict[str, NDArray[Any]] = {
            "facts": np.zeros((FACTS, size), np.float32),
            "chosen": aligned_zeros((CHOSEN, size + LANES), np.float32),
            "chosen_next": aligned_zeros((CHOSEN, size + LANES), np.float32),
            "scores": aligned_zeros((score_words(size, lists),), np.float32),
            "tops": aligned_zeros((size, TILE_ROWS), np.float32),
            "asked": np.zeros(ASKED, np.float32),
            "asked_next": np.zeros(ASKED, np.float32),
            "bias": aligned_zeros((2, TILE_ROWS), np.int32),
            "parts": np.zeros(RUN * PARTS + 16, np.int32),
            "filled": np.zeros(size, np.int64),
            "counts": np.zeros(size, np.int64),
            "lost": np.zeros(size, np.int64),
        }
        self.job = np.zeros(1, JOB)
        self._tell_pack(pack)
        told: dict[str, NDArray[Any]] = {
            "groups": self.groups,
            "query_codes": self.codes,
            "places": self.places,
            "never": self.never,
            "sums": self.sums,
            "masks": self.masks,
        }
        for name, array in (self._held | told).items():
            self.job[name] = array.ctypes.data
        self.job["fact_bytes"] = self._held["facts"].strides[0]
        self.job["chosen_bytes"] = self._held["chosen"].strides[0]
        self.job["stride"] = dims
        self._found_key = (0, 0)
        self._found: tuple[NDArray[Any], ...] = ()

    def _tell_pack(self, pack: IvfPack) -> None:
        """Write what does not change from search to search."""
        job, arrays = self.job, pack.arrays
        for name in (
            "codes", "rows", "terms", "tails", "list_tiles", "units", "steps", "losses", "norms",
            "spreads", "center_codes", "center_units",
        ):  # fmt: skip
            job[name] = getattr(arrays, name).ctypes.data
        job["lists"], job["tiles"] = len(arrays.units), len(arrays.codes)
        job["has_terms"] = arrays.terms.shape[1] > 0
        job["row_steps"], job["center_steps"] = arrays.codes.shape[1], arrays.center_codes.shape[1]
        job["head"], job["edge"] = pack.head // WORD, pack.edge // WORD
        job["shift"], job["flat"] = pack.row_shift + pack.query_shift, is_flat(pack.metric)
        job["usual_steps"], job["usual_losses"] = arrays.steps.mean(), arrays.losses.mean()
        job["usual_norms"] = arrays.norms.mean()

    def make_room(self, k: int, room: int) -> None:
        """See that there is memory for what is found."""
        if self._found_key == (k, room):
            return
        self._found_key = (k, room)
        self._found = (
            np.empty((self.size, k), np.float32),
            np.empty((self.size, room), np.int64),
            np.empty((self.size, room), np.float32),
        )
        for name, array in zip(("lows", "found", "highs"), self._found, strict=True):
            self.job[name] = array.ctypes.data
        self.job["k"], self.job["room"] = k, room


def score_words(size: int, lists: int) -> int:
    """Return how many scores of centers there are room for."""
    return -(-lists // TILE_ROWS) * TILE_ROWS * LANES * (-(-size // LANES) | 1)


def work_bytes(pack: IvfPack, room: int) -> int:
    """Return about what each query of a `Work` takes, with room for so many candidates."""
    lists, dim = len(pack.arrays.units) + TILE_ROWS, pack.origin.size
    return 4 * lists + 16 * room + 8 * dim + 4 * (FACTS + 2 * CHOSEN + TILE_ROWS)


class WorkPool:
    """Lends `Work` to threads, and keeps as many as there were threads at once."""

    def __init__(self) -> None:
        self._free: list[Work] = []
        self._lock = threading.Lock()

    @contextmanager
    def lend(self, pack: IvfPack, size: int) -> Iterator[Work]:
        """Lend memory for up to `size` queries over a pack, always the same."""
        with self._lock:
            work = self._free.pop() if self._free else None
        if work is None or work.size < size:
            work = Work(pack, size)
        try:
            yield work
        finally:
            with self._lock:
                self._free.append(work)

    def __reduce__(self) -> tuple[type["WorkPool"], tuple[()]]:
        return WorkPool, ()
