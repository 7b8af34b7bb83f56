"""Builds an index that reaches a recall, and chooses which: by measurement, on this data.

What counts as fast: the gain over the exact scan at the recall asked for, of batches and of single
queries. gain = (batch gain)^(2/3) · (single gain)^(1/3): gpuvec is for batches first. An index that
gains less than `PAYS` is not worth its bytes.
"""

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gpuvec.device.memory import host_limit_bytes
from gpuvec.errors import index_memory_exceeded, no_index_fits
from gpuvec.index import registry
from gpuvec.index.base import ApproximateIndex, VectorIndex
from gpuvec.index.curve import CurvePoint, RecallCurve
from gpuvec.index.measure import QUERIES, TARGETS, Progress, measure_curve
from gpuvec.index.spec import HNSW, IndexSpec, IVFInt8
from gpuvec.index.trial_filters import FILTER_BYTES
from gpuvec.kernels.pairwise import is_binary
from gpuvec.rows import DenseVectors
from gpuvec.types import Array, Metric

AUTO_LEAST_ROWS = 5000  # segments of fewer rows are scanned as fast as any index answers
PAYS = 1.2
_ENOUGH = 1.5  # gain of batches and of single queries from which no other index is tried
_KS = (10, 100)
_MEASURE_S = 4.0  # at least; else twice as long as the build took
_BUILD_SHARE = 0.6  # of the progress
_SCRATCH_SHARE = 8  # of the memory is for temporary data of the searches that are measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An index that was considered.

    Attributes:
        spec: as built, or as it would have been.
        built: whether it was.
        reason: why it was taken, or why not.
        build_s: seconds of the build.
        measure_s: seconds of its measurement.
        nbytes: that it holds, or would hold, in memory.
        point: its fastest setting that reaches the recall; None: there is none.
        exact: the exact scan beside it.
    """

    spec: IndexSpec
    built: bool
    reason: str
    build_s: float = 0.0
    measure_s: float = 0.0
    nbytes: int = 0
    point: CurvePoint | None = None
    exact: CurvePoint | None = None

    @property
    def gain(self) -> float:
        """How much faster than the exact scan it is; 0 where it does not reach the recall."""
        if self.point is None or self.exact is None:
            return 0.0
        batch = self.exact.batch_s / self.point.batch_s
        single = self.exact.single_s / self.point.single_s
        return float(batch ** (2 / 3) * single ** (1 / 3))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Built:
    """What a build came to.

    Attributes:
        index: complete; None: `auto` found none worth having.
        curve: of `index`; None with it.
        best: its fastest setting that reaches the recall without a filter; None: none does.
        candidates: all that were considered, in order.
    """

    index: ApproximateIndex | None
    curve: RecallCurve | None
    best: CurvePoint | None
    candidates: tuple[Candidate, ...]


def held_out_rows(vectors: DenseVectors, seed: int = 0) -> NDArray[np.int64]:
    """Return the rows, rising, that a build leaves out and asks for afterwards.

    A fiftieth of those with a vector, at most `measure.QUERIES`; at least 100, but never more than
    a tenth. The same for the same number of rows and the same nulls.
    """
    valid = vectors.valid
    rows = np.arange(len(vectors)) if valid is None else np.flatnonzero(valid)
    count = max(min(QUERIES, len(rows) // 50), min(100, len(rows) // 10))
    return np.sort(np.random.default_rng(seed).choice(rows, count, replace=False))


def candidates(vectors: DenseVectors, metric: Metric) -> list[IndexSpec]:
    """Return the indexes that `auto` considers, the most promising first; none: scan exactly."""
    if len(vectors) < AUTO_LEAST_ROWS or is_binary(metric):
        return []
    with_faiss = importlib.util.find_spec("faiss") is not None
    return [IVFInt8(), HNSW()] if with_faiss else [IVFInt8()]


def build_best(
    spec: IndexSpec | None,
    vectors: DenseVectors,
    metric: Metric | str,
    *,
    recall: float,
    k: int = 10,
    max_memory: int | None = None,
    threads: int = 0,
    memory_limit: int | None = None,
    queries: Array | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Built:
    """Build an index over one segment, measure it, and complete it.

    Args:
        spec: what to build; None: what is fastest at the recall among `candidates`. They are built
            one after the other until one is clearly faster than the exact scan.
        vectors: of the segment, in host memory, possibly mapped.
        metric: what `distance` means.
        recall: to reach, for `k` neighbours.
        k: measured beside 10 and 100.
        max_memory: bytes that the index may hold; None: no limit of its own.
        threads: 0: all cores.
        memory_limit: bytes for a build with all its temporary data; None: the process's budget.
        queries: real ones to measure with, as the exact scan takes them; None: rows held out.
        seed: of the rows held out and the filters.
        progress: told how far the work is.

    Raises:
        DeviceMemoryError: `GV-402`, no candidate fits; `GV-401`, the spec asked for does not.
        QueryError, UnsupportedError: see `registry.build`.
    """
    bench = _Builder(
        vectors=vectors,
        metric=Metric(metric),
        recall=recall,
        k=k,
        threads=threads,
        memory_limit=memory_limit or host_limit_bytes(),
        queries=queries,
        held_out=held_out_rows(vectors, seed),
        seed=seed,
    )
    if spec is not None:
        _check_fits(spec, bench, max_memory)
        done = _asked_for(bench.build(spec, progress))
    else:
        wanted, left_out = _that_fit(bench, max_memory)
        done = _best_of(bench, wanted, left_out, progress)
    if done.index is not None:
        done.index.complete()
    if progress is not None:
        progress(1.0)
    return done


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _One:
    index: ApproximateIndex
    curve: RecallCurve
    candidate: Candidate


def _asked_for(built: _One) -> Built:
    reason = f"asked for; {built.candidate.reason}"
    return Built(
        index=built.index,
        curve=built.curve,
        best=built.candidate.point,
        candidates=(replace(built.candidate, reason=reason),),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Builder:
    """Builds and measures candidates over one segment alike."""

    vectors: DenseVectors
    metric: Metric
    recall: float
    k: int
    threads: int
    memory_limit: int
    queries: Array | None
    held_out: NDArray[np.int64]
    seed: int

    @cached_property
    def exact(self) -> VectorIndex:
        """The exact scan, which all candidates are measured against."""
        return registry.exact(self.vectors, self.metric)

    def bytes_of(self, spec: IndexSpec) -> dict[str, int]:
        """Return what a candidate needs at its peak, part by part; "index" is what stays."""
        building = registry.build_bytes(spec, len(self.vectors), self.vectors)
        measuring = {
            "index": building["index"],
            "codes of the exact scan": self.exact.nbytes,
            "filters to measure with": FILTER_BYTES * len(self.vectors),
        }
        return max(building, measuring, key=lambda parts: sum(parts.values()))

    def build(self, spec: IndexSpec, progress: Progress | None, held_bytes: int = 0) -> _One:
        start = time.perf_counter()
        index = registry.build(
            spec,
            self.vectors,
            self.metric,
            held_out=self.held_out,
            threads=self.threads,
            memory_limit=self.memory_limit - held_bytes,
        )
        build_s = time.perf_counter() - start
        if progress is not None:
            progress(_BUILD_SHARE)
        start = time.perf_counter()
        curve = measure_curve(
            index,
            self.exact,
            self.vectors,
            self.metric,
            held_out=self.held_out,
            queries=self.queries,
            ks=tuple(dict.fromkeys((self.k, *_KS))),
            targets=tuple(dict.fromkeys((self.recall, *TARGETS))),
            threads=self.threads,
            memory_limit=self.memory_limit // _SCRATCH_SHARE,
            budget_s=max(_MEASURE_S, 2 * build_s),
            seed=self.seed,
            progress=None if progress is None else _after(progress, _BUILD_SHARE),
        )
        candidate = self._judge(index, curve, build_s, time.perf_counter() - start)
        return _One(index=index, curve=curve, candidate=candidate)

    def _judge(
        self, index: ApproximateIndex, curve: RecallCurve, build_s: float, measure_s: float
    ) -> Candidate:
        cell = curve.at(self.k, 1.0)
        found = Candidate(
            spec=index.spec,
            built=True,
            reason="",
            build_s=build_s,
            measure_s=measure_s,
            nbytes=index.nbytes,
            point=curve.best(self.k, self.recall),
            exact=None if cell is None else cell.exact,
        )
        if cell is None:
            return replace(found, reason="too few rows to measure recall on")
        if found.point is None:
            most = max((setting.low for setting in cell.settings), default=0.0)
            tried = f"none of {len(cell.settings)} settings tried"
            reason = f"{tried} reaches recall {self.recall:g}; the best has {most:.3f} or more"
            return replace(found, reason=reason)
        reason = (
            f"{found.gain:.1f} times as fast as the exact scan, over batches and single queries"
        )
        return replace(found, reason=reason)


def _best_of(
    bench: _Builder,
    wanted: Sequence[IndexSpec],
    left_out: Sequence[Candidate],
    progress: Progress | None,
) -> Built:
    """Build candidates until one is clearly faster than the exact scan; keep the fastest."""
    best: _One | None = None
    seen = list(left_out)
    for number, spec in enumerate(wanted):
        if best is not None and _is_enough(best.candidate):
            reason = "not tried: an index before it gains enough"
            seen.append(Candidate(spec=spec, built=False, reason=reason))
            continue
        tell = None if progress is None else _part(progress, number, len(wanted))
        held_bytes = 0 if best is None else best.index.nbytes
        found = bench.build(spec, tell, held_bytes)
        seen.append(found.candidate)
        if found.candidate.gain > max(PAYS, 0.0 if best is None else best.candidate.gain):
            best = found
    if best is None:
        return Built(index=None, curve=None, best=None, candidates=tuple(seen))
    return Built(
        index=best.index, curve=best.curve, best=best.candidate.point, candidates=tuple(seen)
    )


def _is_enough(candidate: Candidate) -> bool:
    point, exact = candidate.point, candidate.exact
    if point is None or exact is None:
        return False
    batch, single = exact.batch_s / point.batch_s, exact.single_s / point.single_s
    return min(batch, single) >= _ENOUGH


def _that_fit(bench: _Builder, max_memory: int | None) -> tuple[list[IndexSpec], list[Candidate]]:
    """Part the candidates by whether their bytes are allowed.

    Raises:
        DeviceMemoryError: `GV-402`, there are candidates, but none fits.
    """
    fit: list[IndexSpec] = []
    left_out, parts = [], {}
    for spec in candidates(bench.vectors, bench.metric):
        sizes = bench.bytes_of(spec)
        parts[spec.KIND] = sizes
        why = ""
        if max_memory is not None and sizes["index"] > max_memory:
            allowed = f"{max_memory / 2**20:,.0f}"
            why = f"holds {sizes['index'] / 2**20:,.0f} MiB, max_memory allows {allowed}"
        elif sum(sizes.values()) > bench.memory_limit:
            why = f"its build needs {sum(sizes.values()) / 2**20:,.0f} MiB"
        if why:
            left_out.append(Candidate(spec=spec, built=False, reason=why, nbytes=sizes["index"]))
        else:
            fit.append(spec)
    if left_out and not fit:
        limits = {"build": bench.memory_limit}
        raise no_index_fits(
            parts, limits if max_memory is None else {"index": max_memory, **limits}
        )
    return fit, left_out


def _check_fits(spec: IndexSpec, bench: _Builder, max_memory: int | None) -> None:
    parts = bench.bytes_of(spec)
    what = f"{spec} of {len(bench.vectors):,} rows"
    if max_memory is not None and parts["index"] > max_memory:
        raise index_memory_exceeded(what, {"index": parts["index"]}, max_memory)
    if sum(parts.values()) > bench.memory_limit:
        raise index_memory_exceeded(what, parts, bench.memory_limit)


def _after(progress: Progress, start: float) -> Callable[[float], None]:
    return lambda share: progress(start + (1 - start) * share)


def _part(progress: Progress, number: int, count: int) -> Callable[[float], None]:
    return lambda share: progress((number + share) / count)
