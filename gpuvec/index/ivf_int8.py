"""Lists of 8-bit codes, scanned list by list for whole batches: `kernels.ivf_scan` as an index.

Compiled code is loaded when it is first needed. Until it is there, few queries are answered from
the vectors themselves, exactly, and it is loaded beside.
"""

import importlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.errors import (
    damaged_index_file,
    index_cannot_measure,
)
from gpuvec.index.admission import (
    check_build_memory,
    check_search_memory,
    scanned_together,
    scratch_limit,
)
from gpuvec.index.base import IndexFile, Neighbors, Params, Queries, SearchStats
from gpuvec.index.ivf_file import read_arrays, write_arrays
from gpuvec.index.keep import Keep as KeptRows
from gpuvec.index.keep import as_mask
from gpuvec.index.spec import IVFInt8, check_params
from gpuvec.kernels.float_scan import float_scan_topk
from gpuvec.kernels.ivf_form import Effort, IvfArrays, IvfPack, Keep
from gpuvec.kernels.loading import is_loaded, load_beside, note_loaded
from gpuvec.kernels.pairwise import check_pair, is_binary
from gpuvec.kernels.scan_room import OWN_BYTES
from gpuvec.kernels.select_k import check_k, check_lengths
from gpuvec.rows import DenseVectors
from gpuvec.storage.object_store import Buffer
from gpuvec.types import Array, Metric, RowMask

FILE, VERSION = "pack.bin", 2
_NAME = "sweep of lists"
_FEW = 4  # queries that are answered before compiled code is loaded
_DEFAULT = 0.5
_EVERY = 1 << 30  # queries that ask without a mask, in time
_SETTINGS = (
    0.0, 0.04, 0.08, 0.12, 0.17, 0.22, 0.3, 0.36, 0.4, 0.44, 0.49, 0.54, 0.6, 0.7, 0.82, 1.0
)  # fmt: skip


def effort_of(knob: float) -> Effort:
    """Return what a knob from 0 to 1 stands for."""
    spreads = 1.0 + 9.0 * knob
    doubt = 1.5 + 2.5 * max(0.0, knob - 0.6) / 0.4
    return Effort(reach=spreads, patience=spreads, doubt=doubt)


class IVFInt8Index:
    """Near rows by lists of codes.

    Args:
        spec: every parameter decided.
        vectors: of the segment; held, not copied.
        metric: dense.
        pack: of the rows; None: of none, or of rows that codes cannot hold, which are scanned.
        held_out: rising rows that are not found yet.
    """

    def __init__(
        self,
        spec: IVFInt8,
        vectors: DenseVectors,
        metric: Metric,
        pack: IvfPack | None,
        held_out: NDArray[np.int64] | None = None,
    ) -> None:
        self.spec = spec
        self.metric = metric
        self.num_rows = len(vectors)
        self._vectors = vectors
        self._pack = pack
        self._found: RowMask | None = None if vectors.valid is None else vectors.valid.copy()
        if held_out is not None and len(held_out):
            self._found = np.ones(len(vectors), np.bool_) if self._found is None else self._found
            self._found[held_out] = False
        self._every: Keep | None = None
        self._pool: Any = None
        self._local = threading.local()

    @property
    def nbytes(self) -> int:
        """See `ApproximateIndex.nbytes`."""
        return 0 if self._pack is None else self._pack.nbytes

    @property
    def last_stats(self) -> SearchStats | None:
        """See `ApproximateIndex.last_stats`."""
        found: SearchStats | None = getattr(self._local, "stats", None)
        return found

    def search(
        self,
        queries: Queries,
        k: int,
        *,
        params: Params | None = None,
        keep: KeptRows | None = None,
        tie_rank: Array | None = None,
        bound: Array | None = None,
        threads: int = 0,
        memory_limit: int | None = None,
    ) -> Neighbors:
        """See `ApproximateIndex.search`."""
        start = time.perf_counter()
        check_k(k)
        check_pair(queries, self._vectors.values, self.metric)
        effort = effort_of(check_params(self.spec, params or {}).get("effort", _DEFAULT))
        check_lengths(self.num_rows, len(queries), keep=keep, tie_rank=tie_rank, bound=bound)
        mask, kept = self._found, as_mask(keep)
        if kept is not None and not kept.all():
            mask = kept if mask is None else mask & kept
        loaded = is_loaded(_NAME)
        if self._pack is None or (not loaded and len(queries) <= _FEW):
            found, candidates, rescanned = self._scan(
                queries, k, mask, tie_rank, bound, threads, memory_limit
            )
            if self._pack is not None:
                load_beside(_NAME, self._load)
        else:
            found, candidates, rescanned = self._sweep(
                queries, int(k), mask, effort, tie_rank, bound, threads, memory_limit
            )
            if not loaded:
                note_loaded(_NAME)
        self._local.stats = SearchStats(
            strategy=self.spec.KIND,
            queries=len(queries),
            candidates=candidates,
            rescanned=rescanned,
            seconds=time.perf_counter() - start,
        )
        return found

    def settings(self, k: int) -> Sequence[Params]:
        """See `ApproximateIndex.settings`."""
        return [{"effort": effort} for effort in _SETTINGS]

    def complete(self) -> None:
        """See `ApproximateIndex.complete`."""
        self._found = self._vectors.valid
        self._every = None

    def files(self) -> Mapping[str, Sequence[Buffer]]:
        """See `ApproximateIndex.files`."""
        if self._pack is None:
            return {FILE: write_arrays(VERSION, {"packed": False}, {})}
        pack = self._pack
        facts = {
            "packed": True,
            "edge": pack.edge,
            "head": pack.head,
            "row_shift": pack.row_shift,
            "query_shift": pack.query_shift,
            "unit": pack.unit,
            "rest": pack.rest,
        }
        arrays = {name: getattr(pack, name) for name in _SPACE}
        return {FILE: write_arrays(VERSION, facts, arrays | pack.arrays._asdict())}

    def _load(self) -> Iterator[None]:
        """Load the compiled code of searches, step by step."""
        importlib.import_module("gpuvec.kernels.ivf_scan")
        yield
        query = np.zeros((1, self._vectors.values.shape[1]), np.float32)
        query[:, 0] = 1
        self._sweep(query, 1, self._found, effort_of(0.0), None, None, 1, None)
        yield

    def _sweep(
        self,
        queries: Queries,
        k: int,
        mask: RowMask | None,
        effort: Effort,
        tie_rank: Array | None,
        bound: Array | None,
        threads: int,
        memory_limit: int | None,
    ) -> tuple[Neighbors, int, int]:
        """Answer by the lists."""
        from gpuvec.kernels.ivf_scan import IvfSearch
        from gpuvec.kernels.ivf_work import WorkPool

        assert self._pack is not None
        if self._pool is None:
            self._pool = WorkPool()
        search = IvfSearch(
            self._pack,
            self._vectors.values,
            queries,
            k,
            keep=self._keep(mask, len(queries), threads),
            mask=mask,
            effort=effort,
            tie_rank=tie_rank,
            bound=bound,
            threads=threads,
            memory_limit=scratch_limit(memory_limit),
            pool=self._pool,
        )
        parts = {
            "the call": OWN_BYTES,
            "marks of the rows that may be found": 0 if mask is None else len(mask),
            "queries and candidates": search.least_bytes(),
        }
        check_search_memory(f"a search of {self.spec}", parts, scratch_limit(memory_limit))
        found, stats = search.run()
        return found, stats.candidates, stats.rescanned

    def _keep(self, mask: RowMask | None, queries: int, threads: int) -> Keep:
        """Return which rows may be found; where that is all of them, it is worked out once."""
        from gpuvec.kernels.ivf_scan import keep_tiles

        assert self._pack is not None
        if mask is not self._found:
            return keep_tiles(self._pack, mask, queries, threads)
        if self._every is None:
            self._every = keep_tiles(self._pack, mask, _EVERY, threads)
        return self._every

    def _scan(
        self,
        queries: Queries,
        k: int,
        mask: RowMask | None,
        tie_rank: Array | None,
        bound: Array | None,
        threads: int,
        memory_limit: int | None,
    ) -> tuple[Neighbors, int, int]:
        """Answer from the vectors themselves."""
        tile, in_place = scanned_together(
            f"a search of {self.spec}", self._vectors.shape, k, len(queries),
            scratch_limit(memory_limit), threads=threads, masked=mask is not None,
        )  # fmt: skip
        listed = None if mask is None else np.flatnonzero(mask)
        answers, candidates = [Neighbors.empty(0, k)], 0
        for start in range(0, len(queries), tile):
            at = slice(start, start + tile)
            found, measured = float_scan_topk(
                self._vectors.values,
                queries[at],
                k,
                self.metric,
                listed=listed,
                tie_rank=tie_rank,
                bound=None if bound is None else bound[at],
                threads=threads,
                in_place=in_place,
            )
            answers.append(found)
            candidates += measured
        return Neighbors.concat(answers), candidates, len(queries)


# Arrays of a pack beside those of its lists.
_SPACE = ("origin", "rotation", "turn", "turn_units", "variance", "reach")


def build(
    spec: IVFInt8,
    vectors: DenseVectors,
    metric: Metric,
    *,
    held_out: NDArray[np.int64] | None = None,
    threads: int = 0,
    memory_limit: int | None = None,
) -> IVFInt8Index:
    """See `registry.build`.

    Raises:
        UnsupportedError: `GV-320`, the metric is not a dense one.
        DeviceMemoryError: `GV-401`, it does not fit; names the parts.
    """
    from gpuvec.kernels.ivf_pack import groups_for, pack_ivf

    _check(spec, vectors, metric)
    count = len(vectors) if vectors.valid is None else int(np.count_nonzero(vectors.valid))
    decided = replace(spec, n_lists=groups_for(count, spec.n_lists))
    parts = build_bytes(decided, len(vectors), vectors)
    check_build_memory(decided, parts, memory_limit)
    pack = None
    if count:
        known = None
        if held_out is not None and len(held_out):
            known = np.ones(len(vectors), np.bool_)
            known[held_out] = False
        assert decided.n_lists is not None
        pack = pack_ivf(
            vectors.values,
            metric,
            groups=decided.n_lists,
            found=vectors.valid,
            known=known,
            threads=threads,
        )
    return IVFInt8Index(decided, vectors, metric, pack, held_out)


def load(
    spec: IVFInt8, vectors: DenseVectors, metric: Metric, files: Mapping[str, IndexFile]
) -> IVFInt8Index:
    """See `registry.load`. Nothing is read but the file's first page.

    Raises:
        UnsupportedError: `GV-330`, the file is of another version.
        CorruptError: `GV-331`, it is damaged.
    """
    _check(spec, vectors, metric)
    facts, arrays = read_arrays(files[FILE].data, VERSION)
    if not facts.pop("packed"):
        return IVFInt8Index(spec, vectors, metric, None)
    missing = {*_SPACE, *IvfArrays._fields} - set(arrays)
    if missing:
        raise damaged_index_file(f"it has no {', '.join(sorted(missing))}")
    known: dict[str, Any] = {**facts, **{name: arrays.pop(name) for name in _SPACE}}
    pack = IvfPack(metric=metric, arrays=IvfArrays(**arrays), **known)
    return IVFInt8Index(spec, vectors, metric, pack)


def build_bytes(spec: IVFInt8, rows: int, vectors: DenseVectors) -> dict[str, int]:
    """See `registry.build_bytes`."""
    from gpuvec.kernels.ivf_pack import groups_for, pack_bytes

    return pack_bytes(rows, int(vectors.values.shape[1]), groups_for(rows, spec.n_lists))


def _check(spec: IVFInt8, vectors: DenseVectors, metric: Metric) -> None:
    rows = vectors.values[:1]
    kind = rows.dtype if is_binary(metric) else np.float32
    check_pair(np.zeros((1, rows.shape[1]), kind), rows, metric)
    if is_binary(metric):
        dense = [other for other in Metric if not is_binary(other)]
        raise index_cannot_measure(type(spec).__name__, metric, dense)
