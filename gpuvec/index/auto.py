"""Builds an index that reaches a recall, and chooses which: by measurement, on this data.

What counts as fast: the gain over the exact scan at the recall asked for, of batches and of single
queries. gain = (batch gain)^(2/3) · (single gain)^(1/3): gpuvec is for batches first. An index that
gains less than `PAYS` is not worth its bytes.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gpuvec.device.memory import host_limit_bytes
from gpuvec.device.residency import DeviceStore
from gpuvec.errors import index_memory_exceeded, no_index_fits
from gpuvec.index.base import ApproximateIndex
from gpuvec.index.curve import CurvePoint, RecallCurve
from gpuvec.index.devices import installed_engines
from gpuvec.index.measure import QUERIES, Progress
from gpuvec.index.spec import CAGRA, HNSW, IVFPQ, IndexSpec, IVFFlat, IVFInt8
from gpuvec.index.trial_build import Candidate, Trial, Trials, on_device
from gpuvec.kernels.pairwise import is_binary
from gpuvec.rows import DenseVectors
from gpuvec.types import Array, Metric

AUTO_LEAST_ROWS = 5000  # segments of fewer rows are scanned as fast as any index answers
PAYS = 1.2
_ENOUGH = 1.5  # gain of batches and of single queries from which no other index is tried


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


def candidates(vectors: DenseVectors, metric: Metric, *, device: str = "cpu") -> list[IndexSpec]:
    """Return the indexes that `auto` considers, the most promising first; none: scan exactly."""
    if len(vectors) < AUTO_LEAST_ROWS or is_binary(metric):
        return []
    if device == "gpu":
        return [spec for spec in (CAGRA(), IVFFlat(), IVFPQ()) if installed_engines(spec)]
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
    store: DeviceStore | None = None,
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
        store: of a GPU, where indexes that it can search are built and measured, by each library
            that serves them; None: on the CPU.

    Raises:
        DeviceMemoryError: `GV-402`, no candidate fits; `GV-401`, the spec asked for does not.
        QueryError, UnsupportedError: see `registry.build`.
    """
    bench = Trials(
        vectors=vectors,
        metric=Metric(metric),
        recall=recall,
        k=k,
        threads=threads,
        memory_limit=memory_limit or host_limit_bytes(),
        queries=queries,
        held_out=held_out_rows(vectors, seed),
        seed=seed,
        device=None if store is None else on_device(vectors, store),
    )
    if spec is not None:
        _check_fits(spec, bench, max_memory)
        done = _asked_for([bench.build(*wish, progress) for wish in bench.wishes([spec])])
    else:
        wanted, left_out = _that_fit(bench, max_memory)
        done = _best_of(bench, wanted, left_out, progress)
    if done.index is not None:
        done.index.complete()
    if progress is not None:
        progress(1.0)
    return done


def _asked_for(built: Sequence[Trial]) -> Built:
    """Keep what was asked for; of several engines, the one that gains most."""
    best = max(built, key=lambda one: one.candidate.gain)
    every = [replace(one.candidate, reason=f"asked for; {one.candidate.reason}") for one in built]
    return Built(
        index=best.index, curve=best.curve, best=best.candidate.point, candidates=tuple(every)
    )


def _best_of(
    bench: Trials,
    wanted: Sequence[tuple[IndexSpec, str | None]],
    left_out: Sequence[Candidate],
    progress: Progress | None,
) -> Built:
    """Build candidates until one is clearly faster than the exact scan; keep the fastest."""
    best: Trial | None = None
    seen = list(left_out)
    for number, (spec, engine) in enumerate(wanted):
        if best is not None and _is_enough(best.candidate):
            reason = "not tried: an index before it gains enough"
            seen.append(Candidate(spec=spec, built=False, reason=reason, engine=engine or ""))
            continue
        tell = None if progress is None else _part(progress, number, len(wanted))
        held_bytes = 0 if best is None else best.index.nbytes
        found = bench.build(spec, engine, tell, held_bytes)
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


def _that_fit(
    bench: Trials, max_memory: int | None
) -> tuple[list[tuple[IndexSpec, str | None]], list[Candidate]]:
    """Part the candidates by whether their bytes are allowed.

    Raises:
        DeviceMemoryError: `GV-402`, there are candidates, but none fits.
    """
    fit: list[IndexSpec] = []
    left_out, parts = [], {}
    device = "cpu" if bench.device is None else "gpu"
    for spec in candidates(bench.vectors, bench.metric, device=device):
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
    return bench.wishes(fit), left_out


def _check_fits(spec: IndexSpec, bench: Trials, max_memory: int | None) -> None:
    parts = bench.bytes_of(spec)
    what = f"{spec} of {len(bench.vectors):,} rows"
    if max_memory is not None and parts["index"] > max_memory:
        raise index_memory_exceeded(what, {"index": parts["index"]}, max_memory)
    if sum(parts.values()) > bench.memory_limit:
        raise index_memory_exceeded(what, parts, bench.memory_limit)


def _part(progress: Progress, number: int, count: int) -> Callable[[float], None]:
    return lambda share: progress((number + share) / count)
