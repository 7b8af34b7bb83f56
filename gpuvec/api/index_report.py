"""`IndexReport`: what an index of a collection came to, from what its builds measured."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gpuvec.coord.data_coord import AUTO_LEAST_ROWS, is_hidden, wants_index
from gpuvec.index.spec import Flat, IndexSpec, spec_from_json
from gpuvec.meta.catalog import CollectionState, IndexDefinition, IndexRecord, SegmentRecord
from gpuvec.node.loader import wanted_spec

if TYPE_CHECKING:
    from gpuvec.api.frame import Frame

_EXACT = "exact scan"
_TABLE = pa.schema(
    [
        ("segment_id", pa.string()),
        ("rows", pa.int64()),
        ("state", pa.string()),
        ("spec", pa.string()),
        ("params", pa.string()),
        ("recall", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("queries_per_second", pa.float64()),
        ("exact_queries_per_second", pa.float64()),
        ("size_bytes", pa.int64()),
        ("memory_bytes", pa.int64()),
        ("seconds", pa.float64()),
        ("source", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentReport:
    """The index of one segment.

    Attributes:
        segment_id: its name.
        rows: it has.
        state: `indexed`, `exact` where no index pays, `waiting` for its build, `replacing` where an
            index made for another wish serves until then, or `small`: never to have one.
        built: what was built; None where nothing was.
        params: the setting that searches use to reach the target; None: they scan exactly, or the
            index has no settings.
        recall: of that setting, or the most that any reached; None where nothing was measured.
        low: lower end of its 95 % interval.
        high: upper end.
        queries_per_second: of that setting, many asked at once.
        exact_queries_per_second: of the exact scan beside it.
        size_bytes: of the index's files.
        memory_bytes: that it holds when it is open.
        seconds: that building and measuring took.
        source: of the queries that it was measured with.
        reasons: per index that was considered, why it was taken or not.
    """

    segment_id: str
    rows: int
    state: str
    built: IndexSpec | None = None
    params: Mapping[str, float] | None = None
    recall: float | None = None
    low: float | None = None
    high: float | None = None
    queries_per_second: float | None = None
    exact_queries_per_second: float | None = None
    size_bytes: int = 0
    memory_bytes: int = 0
    seconds: float = 0.0
    source: str | None = None
    reasons: tuple[str, ...] = ()

    @property
    def has_index(self) -> bool:
        """Whether searches have an index here."""
        return self.state in ("indexed", "replacing")

    @property
    def short(self) -> bool:
        """Whether no setting reached the target, so that searches for it scan exactly."""
        return self.state == "indexed" and self.recall is not None and self.params is None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReport:
    """An index of a collection: what was asked for, and what each segment has.

    Attributes:
        field: that is indexed.
        wish: `auto`, or the index that was asked for, as text.
        target: recall that searches want which name none; None for scalar fields.
        k: neighbours for which it holds.
        max_memory: bytes that it may hold; None: no limit.
        segments: largest first.
        failure: why the last build failed; "" if none did.
    """

    field: str
    wish: str
    target: float | None
    k: int
    max_memory: int | None
    segments: tuple[SegmentReport, ...]
    failure: str = ""

    @property
    def rows(self) -> int:
        """Rows that are stored in segment files; deleted ones count until they are compacted."""
        return sum(segment.rows for segment in self.segments)

    @property
    def rows_covered(self) -> int:
        """Rows of the segments that have an index."""
        return sum(segment.rows for segment in self._indexed)

    @property
    def waiting(self) -> int:
        """Segments that wait for their index."""
        return sum(segment.state in ("waiting", "replacing") for segment in self.segments)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(segment.size_bytes for segment in self.segments)

    @property
    def memory_bytes(self) -> int:
        """Bytes that it holds when it is open as a whole."""
        return sum(segment.memory_bytes for segment in self.segments)

    @property
    def seconds(self) -> float:
        """That building and measuring took."""
        return sum(segment.seconds for segment in self.segments)

    @property
    def recall(self) -> float | None:
        """Mean recall at the setting for the target, by rows; None where nothing was measured."""
        return self._mean([segment.recall for segment in self._indexed])

    @property
    def low(self) -> float | None:
        """The same of the lower ends of the 95 % intervals."""
        return self._mean([segment.low for segment in self._indexed])

    @property
    def queries_per_second(self) -> float | None:
        """Of all indexed segments one after the other, at the setting for the target."""
        return _rate([segment.queries_per_second for segment in self._indexed])

    @property
    def exact_queries_per_second(self) -> float | None:
        """Of the exact scan of the same segments."""
        return _rate([segment.exact_queries_per_second for segment in self._indexed])

    @property
    def short(self) -> tuple[SegmentReport, ...]:
        """The segments where no setting reached the target."""
        return tuple(segment for segment in self.segments if segment.short)

    @property
    def table(self) -> "Frame":
        """One row per segment."""
        from gpuvec.api.frame import frame

        own = [name for name in _TABLE.names if name not in ("spec", "params")]
        columns = {name: [getattr(s, name) for s in self.segments] for name in own}
        columns["spec"] = [None if s.built is None else str(s.built) for s in self.segments]
        columns["params"] = [_numbers(s.params or {}) for s in self.segments]
        return frame(pa.table(columns, schema=_TABLE))

    @property
    def _indexed(self) -> list[SegmentReport]:
        return [segment for segment in self.segments if segment.has_index]

    def _mean(self, values: Sequence[float | None]) -> float | None:
        known = [(v, s.rows) for v, s in zip(values, self._indexed, strict=True) if v is not None]
        total = sum(rows for _, rows in known)
        return sum(v * rows for v, rows in known) / total if total else None

    def facts(self) -> list[tuple[str, str]]:
        """Return what there is to say, as (word, text)."""
        target = "" if self.target is None else f", recall {self.target:g} for k={self.k}"
        facts = [("asked", f"{self.wish}{target}"), ("chosen", self.chosen)]
        facts.append(("rows", self._coverage()))
        if self.recall is not None and self.low is not None:
            sources = sorted({str(s.source) for s in self._indexed if s.source})
            text = f"{self.recall:.4f}, with 95 % not below {self.low:.4f}, on {', '.join(sources)}"
            facts.append(("recall", f"{text}; short of the target" if self.short else text))
        if self.queries_per_second and self.exact_queries_per_second:
            gain = self.queries_per_second / self.exact_queries_per_second
            facts.append(("speed", f"{self.queries_per_second:,.0f} queries/s in batches, "
                          f"{gain:.1f} times the exact scan"))  # fmt: skip
        facts.append(("size", f"{self.size_bytes:,} bytes in files, built in {self.seconds:.1f} s"))
        facts += [("seen", reason) for reason in self._reasons()]
        is_auto, parts = self.wish == "auto", self.segments
        if is_auto and any(part.state == "exact" and not part.reasons for part in parts):
            text = "auto tries no index of such vectors; HNSW and IVFFlat can be asked for by name"
            facts.append(("seen", text))
        if is_auto and any(part.state == "small" for part in parts):
            facts.append(("small", f"fewer than {AUTO_LEAST_ROWS:,} rows are scanned exactly"))
        return [*facts, ("failed", self.failure)] if self.failure else facts

    @property
    def chosen(self) -> str:
        """What the segments have, as text."""
        groups: dict[str, list[SegmentReport]] = {}
        for segment in self.segments:
            name = type(segment.built).__name__ if segment.has_index else _EXACT
            groups.setdefault(name, []).append(segment)
        order = sorted(groups, key=lambda name: name == _EXACT)
        texts = [name if name == _EXACT else _joined(name, groups[name]) for name in order]
        if len(texts) < 2:
            return texts[0] if texts else _EXACT
        counts = [len(groups[name]) for name in order]
        return ", ".join(f"{n} × {text}" for n, text in zip(counts, texts, strict=True))  # noqa: RUF001

    @property
    def line(self) -> str:
        """The index in a line: what it is, its recall, and what it covers."""
        recall = "" if self.recall is None else f", recall {self.recall:.3f}"
        return f'index "{self.field}": {self.chosen}{recall}, rows {self._coverage()}'

    def _coverage(self) -> str:
        count = len(self.segments)
        parts = f"{count} segment{'' if count == 1 else 's'}"
        text = f"{self.rows_covered:,} of {self.rows:,} stored in {parts}"
        if self.waiting:
            return f"{text}; {self.waiting} wait for their index"
        return text if self.rows_covered == self.rows else f"{text}; the rest is scanned exactly"

    def _reasons(self) -> list[str]:
        seen = [reason for segment in self.segments[:1] for reason in segment.reasons]
        more = len(self.segments) - 1
        return [f"{reason} (largest segment)" for reason in seen] if more > 0 else seen

    def __repr__(self) -> str:
        lines = [f"{word:8}{text}" for word, text in self.facts()]
        return "\n".join([f'Index of "{self.field}"', *lines])

    def _repr_html_(self) -> str:
        cells = "".join(
            f'<tr><td style="text-align:left"><b>{html.escape(word)}</b></td>'
            f'<td style="text-align:left">{html.escape(text)}</td></tr>'
            for word, text in self.facts()
        )
        return f"<p><b>Index of {html.escape(self.field)}</b></p><table>{cells}</table>"


def report_of(state: CollectionState, field: str, failure: str = "") -> IndexReport:
    """Return the report of a field's index, from the manifest alone."""
    definition = state.indexes[field]
    spec = wanted_spec(definition)
    seen = [segment for segment in state.segments.values() if not is_hidden(state, segment)]
    segments = [_segment(state, definition, segment) for segment in seen]
    return IndexReport(
        field=field,
        wish="auto" if spec is None else str(spec),
        target=definition.recall,
        k=definition.k,
        max_memory=definition.max_memory,
        segments=tuple(sorted(segments, key=lambda s: (-s.rows, s.segment_id))),
        failure=failure,
    )


def _segment(
    state: CollectionState, definition: IndexDefinition, segment: SegmentRecord
) -> SegmentReport:
    record = segment.indexes.get(definition.field)
    wanted = wants_index(state, segment, definition.field)
    if record is not None:
        found = _built(segment, record)
        if record.definition_id == definition.index_id or not wanted:
            return found
        return replace(found, state="replacing" if found.has_index else "waiting")
    return SegmentReport(
        segment_id=segment.segment_id,
        rows=segment.row_count,
        state="waiting" if wanted else "small" if definition.spec["kind"] != "flat" else "exact",
    )


def _built(segment: SegmentRecord, record: IndexRecord) -> SegmentReport:
    summary, spec = record.summary, spec_from_json(record.spec)
    best, exact = summary.get("best") or {}, summary.get("exact") or {}
    point = best or summary.get("most") or {}
    return SegmentReport(
        segment_id=segment.segment_id,
        rows=segment.row_count,
        state="exact" if isinstance(spec, Flat) else "indexed",
        built=spec,
        params=best.get("params"),
        recall=point.get("recall"),
        low=point.get("low"),
        high=point.get("high"),
        queries_per_second=_per_second(best),
        exact_queries_per_second=_per_second(exact),
        size_bytes=record.size_bytes,
        memory_bytes=int(summary.get("bytes", 0)),
        seconds=float(summary.get("seconds", 0.0)),
        source=summary.get("source"),
        reasons=tuple(f"{c['spec']}: {c['reason']}" for c in summary.get("candidates", ())),
    )


def _per_second(point: Mapping[str, Any]) -> float | None:
    return 1 / point["batch_s"] if point.get("batch_s") else None


def _rate(rates: Sequence[float | None]) -> float | None:
    """Return queries per second of parts that are searched one after the other."""
    known = [rate for rate in rates if rate]
    return 1 / sum(1 / rate for rate in known) if known and len(known) == len(rates) else None


def _joined(name: str, segments: Sequence[SegmentReport]) -> str:
    """Return an index type with its parameters and settings, as ranges where segments differ."""
    specs = [s.built.to_json() for s in segments if s.built is not None]
    settings = [s.params for s in segments if s.params]
    text = f"{name}({_ranges(specs)})"
    return f"{text} with {_ranges(settings)}" if settings else text


def _ranges(found: Sequence[Mapping[str, Any]]) -> str:
    shown = []
    for name in dict.fromkeys(name for one in found for name in one if name != "kind"):
        values = sorted({one[name] for one in found if one.get(name) is not None})
        if values:
            ends = " to ".join(map(_number, dict.fromkeys((values[0], values[-1]))))
            shown.append(f"{name}={ends}")
    return ", ".join(shown)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def _numbers(params: Mapping[str, float]) -> str:
    return _ranges([params])
