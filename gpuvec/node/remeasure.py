"""Measures the index of a sealed segment again: its files stay, its curve is a new one.

The steps are those of `gpuvec.node.build`: measuring takes the place of building, and only the
curve is written. A death leaves the same behind.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gpuvec.device.residency import device_store
from gpuvec.index import registry
from gpuvec.index.auto import held_out_rows
from gpuvec.index.base import Queries
from gpuvec.index.curve import RecallCurve
from gpuvec.index.measure import Progress, measure_curve
from gpuvec.index.trial_build import on_device
from gpuvec.meta.catalog import CollectionState, IndexDefinition, IndexRecord
from gpuvec.node.build import best_points
from gpuvec.node.loader import CURVE_FILES
from gpuvec.node.ports import Segments
from gpuvec.rows import DenseVectors
from gpuvec.segment.sealed import SealedRows
from gpuvec.segment.view import SegmentIndex
from gpuvec.storage.index_files import write_index_files
from gpuvec.storage.object_store import Procedure
from gpuvec.types import Metric, SegmentId

HIDDEN_ROWS = "rows hidden from the answers"  # the source of a curve that no queries were given for
_BUDGET_S = 30.0  # for one segment


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexed:
    """A segment with an index that can be measured."""

    segment_id: SegmentId
    rows: SealedRows
    definition: IndexDefinition
    record: IndexRecord
    index: SegmentIndex


def indexed_segments(state: CollectionState, shard: Segments, field: str) -> list[Indexed]:
    """Return the segments whose field has the index that is wanted, the largest first."""
    definition = state.indexes[field]
    records = {name: record.indexes.get(field) for name, record in state.segments.items()}
    found = [
        Indexed(
            segment_id=segment.segment_id,
            rows=segment.rows,
            definition=definition,
            record=record,
            index=segment.indexes[field],
        )
        for segment in shard.sealed()
        if field in segment.indexes
        and (record := records[segment.segment_id]) is not None
        and record.definition_id == definition.index_id
    ]
    return sorted(found, key=lambda one: (-one.rows.row_count, one.segment_id))


def measure(
    one: Indexed,
    metric: Metric,
    *,
    ks: tuple[int, ...],
    queries: Queries | None,
    threads: int = 0,
    memory_limit: int | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
) -> RecallCurve:
    """Return what an index reaches now.

    Args:
        one: the index.
        metric: of its field.
        ks: neighbours to measure with, the most important first.
        queries: as `VectorIndex.search` takes them; None: some rows, hidden from the answers. An
            index to which hidden rows still are a help is built once more without them.
        threads: of the host; 0: all cores.
        memory_limit: bytes for temporary data.
        progress: told how far the work is.
        device: where it is searched, "cpu" or "gpu"; an index that no GPU can search is on the CPU.

    Raises:
        DeviceMemoryError: `GV-401`, an index that must be built once more does not fit.
    """
    vectors = one.rows.vector(one.definition.field)
    assert isinstance(vectors, DenseVectors)
    spec, held_out = one.index.spec, held_out_rows(vectors) if queries is None else None
    there = vectors
    if not registry.why_not_on(device, spec, metric) and device == "gpu":
        there = on_device(vectors, device_store())
    if held_out is not None and spec.REMEMBERS:
        index = registry.build(
            spec, there, metric, held_out=held_out, threads=threads, memory_limit=memory_limit
        )
    else:
        index = registry.load(spec, there, metric, one.index.files())
    curve = measure_curve(
        index,
        registry.exact(there, metric),
        vectors,
        metric,
        held_out=held_out,
        queries=queries,
        ks=ks,
        threads=threads,
        memory_limit=memory_limit,
        budget_s=_BUDGET_S,
        progress=progress,
    )
    return curve if queries is not None or spec.REMEMBERS else replace(curve, source=HIDDEN_ROWS)


def write(
    one: Indexed, curve: RecallCurve, prefix: str, index_id: SegmentId
) -> Procedure[IndexRecord]:
    """Write a curve; return the record of the same index with it.

    Args:
        one: the index.
        curve: of it.
        prefix: of the collection, `keys.collection(id)`.
        index_id: a name never used before.
    """
    name = CURVE_FILES[curve.device]
    parts = {name: [json.dumps(curve.to_json()).encode()]}
    written = yield from write_index_files(prefix, one.segment_id, index_id, parts)
    files: Mapping[str, Mapping[str, Any]] = {
        **one.record.files, name: written[name].to_json()
    }  # fmt: skip
    wish = one.definition
    best = curve.best(wish.k, wish.recall or 1.0)
    points = best_points(curve, wish, best)
    return replace(
        one.record,
        index_id=index_id,
        files=files,
        size_bytes=sum(file["length"] for file in files.values()),
        summary={**one.record.summary, "source": curve.source, **points},
    )
