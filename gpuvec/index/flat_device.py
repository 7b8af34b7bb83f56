"""The way in which `FlatIndex` scans rows on the GPU."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

from gpuvec.device.arrays import array_namespace
from gpuvec.device.rows import DeviceRows, HeldRows, device_rows
from gpuvec.errors import DeviceMemoryError
from gpuvec.index.base import Neighbors, RangeNeighbors
from gpuvec.index.flat_device_tiles import FloatTiles
from gpuvec.index.flat_scans import FEW_ROWS, Found, Request
from gpuvec.kernels.device_scan import DeviceFound, device_scan_topk, scratch_of
from gpuvec.kernels.device_scan_codes import (
    SCRATCH_BYTES,
    DeviceCodes,
    code_bytes,
    encode_rows,
    kinds_of,
    origin_of,
)
from gpuvec.kernels.device_scan_launch import ScanPart
from gpuvec.kernels.pairwise import is_binary
from gpuvec.types import Array, Metric

T = TypeVar("T")
_CODES_AFTER = 64  # queries that pay for deriving codes
_LEAST_ASKED = 8  # queries that a scan in float32 costs as much as
_CODES_SHARE = 0.1  # of the rows that may be found: more neighbours than that come from float32
_THIN = 0.5  # of the rows: fewer are named one by one, more are told by bits
_LOOSE = 8  # codes that leave more than such a part of a batch unproven are not asked first again
_LEAST_BATCH = 64  # queries that tell so
_ENCODE_ROWS = 1 << 12, 1 << 18  # at a time, at least and at most


class DeviceScan:
    """Rows on the GPU: by tensor cores once enough queries came to pay for codes, else in float32.

    Codes are derived once and lie on the card as the rows do: while there is room. Queries whose
    bounds do not prove their answer go on to tighter codes, then to tiles of float32 distances.
    Those answers differ from the host's only where distances differ by less than 1e-6 relative.

    Args:
        rows: (n, width) on the device, or rows that come there.
        metric: that measures them.
    """

    nbytes = 0  # what is derived is booked where it lies

    def __init__(self, rows: DeviceRows | Array, metric: Metric) -> None:
        self.rows = device_rows(rows)
        self.metric = metric
        self._kinds = () if is_binary(metric) else kinds_of(self.rows)
        self._asked = 0
        self._lock = threading.Lock()  # held shortly

    def topk(self, request: Request, k: int, bound: Array | None) -> Found:
        """See `RowScan.topk`."""
        tiles = FloatTiles(self.rows, self.metric, request.bits, request.tie_rank)
        with self.rows.held() as held:
            if held.array is None or not self._takes_codes(request, k):
                found, measured = tiles.topk(request.queries, k, bound)
                return found, "device scan", measured, 0
            return self._by_codes(held, request, k, bound, tiles)

    def range(self, request: Request, low: Array | None, high: Array) -> tuple[RangeNeighbors, str]:
        """See `RowScan.range`."""
        tiles = FloatTiles(self.rows, self.metric, request.bits, request.tie_rank)
        return tiles.range(request.queries, low, high), "device scan"

    def _takes_codes(self, request: Request, k: int) -> bool:
        """Count the queries; return whether codes serve best and by now are worth deriving."""
        asked = len(request.queries)
        if not self._kinds or not asked or request.count < FEW_ROWS:
            return False
        if k > _CODES_SHARE * request.count:
            return False
        with self._lock:
            self._asked += max(_LEAST_ASKED, asked)
        return self.is_worth_codes()

    @property
    def kinds(self) -> tuple[str, ...]:
        """Codes that are asked, in that order; none: of bits."""
        return self._kinds

    def is_worth_codes(self) -> bool:
        """Return whether codes are there, or enough was asked to pay for them."""
        if not self._kinds:
            return False
        with self._lock:
            enough = self._asked >= _CODES_AFTER
        return enough or self.rows.has_derived(self._name(self._kinds[0]))

    def _by_codes(
        self, held: HeldRows, request: Request, k: int, bound: Array | None, tiles: FloatTiles
    ) -> Found:
        """Answer by codes of each kind in turn, and what they leave unproven by tiles."""
        queries = request.queries
        xp = array_namespace(queries)
        out = Neighbors.empty(len(queries), k, like=queries)
        left, strategy, measured, rescanned = xp.arange(len(queries)), "device scan", 0, 0
        hopeless = left[:0]
        for kind in self._kinds:
            with self.codes(held, kind) as codes:
                if codes is None:
                    continue
                limits = None if bound is None else bound[left]
                found = self._scan(held, codes, request, queries[left], k, limits)
            if found is None:
                break
            out.rows[left] = found.neighbors.rows
            out.distances[left] = found.neighbors.distances
            hopeless = xp.concatenate([hopeless, left[xp.flatnonzero(found.refused)]])
            unproven = left[xp.flatnonzero(~found.proven & ~found.refused)]
            self.note(kind, len(left), len(unproven))
            if strategy == "device scan":
                strategy, rescanned = f"device {kind} scan", len(unproven) + len(hopeless)
            left, measured = unproven, measured + found.candidates
            if not len(left):
                break
        left = xp.concatenate([left, hopeless])
        if not len(left):
            return out, strategy, measured, rescanned
        rest, pairs = tiles.topk(queries[left], k, None if bound is None else bound[left])
        out.rows[left], out.distances[left] = rest.rows, rest.distances
        return out, strategy, measured + pairs, rescanned

    def note(self, kind: str, asked: int, unproven: int) -> None:
        """Leave out codes that are too loose for such rows, while there are tighter ones."""
        loose = asked >= _LEAST_BATCH and unproven * _LOOSE > asked
        with self._lock:
            if loose and len(self._kinds) > 1 and self._kinds[0] == kind:
                self._kinds = self._kinds[1:]

    @contextmanager
    def codes(self, held: HeldRows, kind: str) -> Iterator[DeviceCodes | None]:
        """Hold the codes of all rows; None: there is no room, or they cannot be bounded."""
        rows, name = held.array, self._name(kind)
        derived = self.rows.derived(name, code_bytes(rows, kind), self._encode(rows, kind))
        with ExitStack() as stack:
            yield if_room(stack, derived)

    def _name(self, kind: str) -> str:
        return f"{kind} codes for {self.metric}"

    def _encode(self, rows: Array, kind: str) -> Callable[[], Any]:
        """Return a function that derives the codes."""

        def make() -> DeviceCodes | None:
            least, most = (SCRATCH_BYTES * min(len(rows), n) for n in _ENCODE_ROWS)
            with self.rows.scratch(least, most, what="codes of vectors") as granted:
                origin = self.rows.common(
                    f"origin for {self.metric}", lambda: origin_of(rows, self.metric)
                )
                return encode_rows(rows, self.metric, kind, origin, granted // SCRATCH_BYTES)

        return make

    def _scan(
        self,
        held: HeldRows,
        codes: DeviceCodes,
        request: Request,
        queries: Array,
        k: int,
        bound: Array | None,
    ) -> DeviceFound | None:
        """Scan all rows once for some queries; None: there is no room for what is found."""
        xp, rank = array_namespace(queries), request.tie_rank
        thin = request.bits is not None and request.count < _THIN * len(self.rows)
        fixed = len(self.rows) + 16 * request.count if thin else 0
        least, most = scratch_of(k, int(queries.shape[1]), len(queries))
        what = f"a scan for {len(queries):,} queries"
        with ExitStack() as stack:
            granted = if_room(stack, self.rows.scratch(fixed + least, fixed + most, what=what))
            if granted is None:
                return None
            listed = request.listed() if thin else None
            part = ScanPart(
                codes=codes,
                vectors=held.array,
                bits=None if thin else request.bits,
                listed=None if listed is None else listed.astype(xp.uint32),
                count=request.count,
            )
            ranks = None
            if rank is not None:
                ranks = stack.enter_context(device_rows(rank).held()).take
            return device_scan_topk(
                [part], queries, k, bound=bound, rank_of=ranks, scratch_bytes=granted - fixed
            )


def if_room(stack: ExitStack, held: AbstractContextManager[T]) -> T | None:
    """Enter a context; None: the budget of device memory has no room for it."""
    try:
        return stack.enter_context(held)
    except DeviceMemoryError as error:
        if error.code != "GV-903":
            raise
        return None
