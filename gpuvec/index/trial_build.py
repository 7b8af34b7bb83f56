"""One index, built and measured beside the exact scan: what `auto` chooses among."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gpuvec.device.residency import DeviceStore
from gpuvec.device.rows import DeviceRows
from gpuvec.index import registry
from gpuvec.index.base import ApproximateIndex, VectorIndex
from gpuvec.index.curve import CurvePoint, RecallCurve
from gpuvec.index.devices import installed_engines, why_not_on_device
from gpuvec.index.measure import TARGETS, Progress, measure_curve
from gpuvec.index.spec import IndexSpec
from gpuvec.index.trial_filters import FILTER_BYTES
from gpuvec.once import cached_property
from gpuvec.rows import DenseVectors
from gpuvec.types import Array, Metric

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
        engine: on a GPU, the library that searches it; else "".
        build_s: seconds of the build.
        measure_s: seconds of its measurement.
        nbytes: that it holds, or would hold, in memory.
        point: its fastest setting that reaches the recall; None: there is none.
        exact: the exact scan beside it.
    """

    spec: IndexSpec
    built: bool
    reason: str
    engine: str = ""
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
class Trial:
    """An index that was built and measured."""

    index: ApproximateIndex
    curve: RecallCurve
    candidate: Candidate


@dataclass(frozen=True, kw_only=True, eq=False)
class Trials:
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
    device: DenseVectors | None  # the same vectors for a GPU; None: all is done on the CPU

    def where(self, spec: IndexSpec) -> DenseVectors:
        """Return the vectors for where an index is built and searched."""
        if self.device is None or why_not_on_device(spec, self.metric):
            return self.vectors
        return self.device

    def wishes(self, specs: Iterable[IndexSpec]) -> list[tuple[IndexSpec, str | None]]:
        """Return each index with each engine that can search it."""
        found: list[tuple[IndexSpec, str | None]] = []
        for spec in specs:
            engines = [None] if self.where(spec) is self.vectors else installed_engines(spec)
            found += [(spec, engine) for engine in engines]
        return found

    def exact_beside(self, spec: IndexSpec) -> VectorIndex:
        """Return the exact scan that a candidate is measured against, on its device."""
        return self.exact if self.where(spec) is self.vectors else self._exact_on_device

    @cached_property
    def exact(self) -> VectorIndex:
        """The exact scan on the CPU."""
        return registry.exact(self.vectors, self.metric)

    @cached_property
    def _exact_on_device(self) -> VectorIndex:
        assert self.device is not None
        return registry.exact(self.device, self.metric)

    def bytes_of(self, spec: IndexSpec) -> dict[str, int]:
        """Return what a candidate needs at its peak, part by part; "index" is what stays."""
        building = registry.build_bytes(spec, len(self.vectors), self.where(spec))
        measuring = {
            "index": building["index"],
            "codes of the exact scan": self.exact_beside(spec).nbytes,
            "filters to measure with": FILTER_BYTES * len(self.vectors),
        }
        return max(building, measuring, key=lambda parts: sum(parts.values()))

    def build(
        self,
        spec: IndexSpec,
        engine: str | None,
        progress: Progress | None,
        held_bytes: int = 0,
    ) -> Trial:
        """Build one without the rows held out, and measure it."""
        start = time.perf_counter()
        index = registry.build(
            spec,
            self.where(spec),
            self.metric,
            held_out=self.held_out,
            threads=self.threads,
            memory_limit=self.memory_limit - held_bytes,
            engine=engine,
        )
        build_s = time.perf_counter() - start
        if progress is not None:
            progress(_BUILD_SHARE)
        start = time.perf_counter()
        curve = measure_curve(
            index,
            self.exact_beside(spec),
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
        return Trial(index=index, curve=curve, candidate=candidate)

    def _judge(
        self, index: ApproximateIndex, curve: RecallCurve, build_s: float, measure_s: float
    ) -> Candidate:
        cell = curve.at(self.k, 1.0)
        found = Candidate(
            spec=index.spec,
            built=True,
            reason="",
            engine=curve.engine,
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


def on_device(vectors: DenseVectors, store: DeviceStore) -> DenseVectors:
    """Return vectors of the host for a GPU, where they stay while something holds the answer."""
    rows = DeviceRows(
        vectors.shape, vectors.dtype, lambda: vectors.values, store.scope(), ("index", 0, "vectors")
    )
    return DenseVectors(rows, vectors.valid)


def _after(progress: Progress, start: float) -> Callable[[float], None]:
    return lambda share: progress(start + (1 - start) * share)
