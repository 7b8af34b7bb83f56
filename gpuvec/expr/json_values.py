"""Values at a path of JSON texts, as Arrow arrays."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """Where values lie in JSON texts.

    Attributes:
        data: (bytes,) uint8, the texts.
        kinds: (n,) uint8, of `gpuvec.expr.json_scan`.
        starts, ends: (n,) int64, positions in `data`.
        whole: (n,) int64, the whole numbers.
    """

    data: NDArray[np.uint8]
    kinds: NDArray[np.uint8]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    whole: NDArray[np.int64]


def find(texts: pa.Array, path: Sequence[str | int]) -> Spans:
    """Return where the value at `path` lies in each text."""
    from gpuvec.expr import json_scan

    if not pa.types.is_string(texts.type):
        texts = texts.cast(pa.string())
    data, offsets = _buffers(texts)
    count = len(texts)
    valid = np.ones(count, bool) if not texts.null_count else texts.is_valid().to_numpy(False)
    names = [step.encode() if isinstance(step, str) else b"" for step in path]
    name_offsets = np.cumsum([0, *map(len, names)]).astype(np.int64)
    indices = np.array([-1 if isinstance(step, str) else step for step in path], np.int64)
    kinds, starts, ends = _outputs(count)
    name_bytes = np.frombuffer(b"".join(names) or b"\0", np.uint8)
    json_scan.find(data, offsets, valid, name_bytes, name_offsets, indices, kinds, starts, ends)
    return _read(data, kinds, starts, ends)


def elements(spans: Spans) -> tuple[NDArray[np.int64], Spans]:
    """Return the elements of all arrays, and for each (elements,) int64 the row whose it is."""
    from gpuvec.expr import json_scan

    counts = np.empty(len(spans.kinds), np.int64)
    json_scan.count_elements(spans.data, spans.starts, spans.ends, spans.kinds, counts)
    kinds, starts, ends = _outputs(int(counts.sum()))
    json_scan.list_elements(spans.data, spans.starts, spans.ends, spans.kinds, kinds, starts, ends)
    return np.repeat(np.arange(len(counts)), counts), _read(spans.data, kinds, starts, ends)


def lengths(spans: Spans) -> pa.Array:
    """Return how many elements each array has, int64; null for what is no array."""
    from gpuvec.expr import json_scan

    counts = np.empty(len(spans.kinds), np.int64)
    json_scan.count_elements(spans.data, spans.starts, spans.ends, spans.kinds, counts)
    return pa.array(counts, mask=spans.kinds != json_scan.ARRAY)


def values(spans: Spans, wanted: str) -> pa.Array:
    """Return the values of one kind, null elsewhere; see `gpuvec.expr.bound.JsonValue.wanted`."""
    from gpuvec.expr import json_scan as scan

    kinds = spans.kinds
    match wanted:
        case "int":
            return pa.array(spans.whole, mask=kinds != scan.INT)
        case "float":
            return _texts(spans, kinds == scan.FLOAT, decode=False).cast(pa.float64())
        case "number":
            return pc.coalesce(
                values(spans, "int").cast(pa.float64(), safe=False), values(spans, "float")
            )
        case "string":
            return _texts(spans, kinds == scan.STRING, decode=True)
        case "bool":
            return pa.array(kinds == scan.TRUE, mask=(kinds != scan.TRUE) & (kinds != scan.FALSE))
        case "text":
            return _texts(spans, kinds != scan.MISSING, decode=False)
    raise AssertionError(f"a JSON value cannot be read as {wanted}")


def with_member(objects: pa.Array, name: str, members: pa.Array) -> pa.Array:
    """Return JSON objects with one member set.

    Args:
        objects: texts without spaces around them; null and `{}` have no members yet.
        name: of the member.
        members: its values as JSON texts; null takes it away.
    """
    texts = pc.if_else(pc.equal(objects, "{}"), pa.scalar(None, pa.string()), objects)
    spans = find(texts, [name])
    _, offsets = _buffers(texts)
    there = spans.ends > spans.starts
    cut = np.where(there, spans.starts, np.maximum(offsets[1:] - 1, 0)).astype(np.int64)
    rest = np.where(there, spans.ends, offsets[1:]).astype(np.int64)
    filled = texts.is_valid().to_numpy(False)
    head = _texts(
        replace(spans, starts=offsets[:-1].astype(np.int64), ends=cut), filled, decode=False
    )
    tail = _texts(
        replace(spans, starts=rest, ends=offsets[1:].astype(np.int64)), filled, decode=False
    )
    key = f"{json.dumps(name)}:"
    members = members.cast(pa.string())
    changed = pc.binary_join_element_wise(head, members.fill_null("null"), tail, "")
    added = pc.binary_join_element_wise(head, f",{key}", members, "}", "")
    first = pc.binary_join_element_wise("{", key, members, "}", "")
    found = pc.if_else(pa.array(there), changed, pc.if_else(pa.array(filled), added, first))
    return pc.coalesce(found, texts)


def _read(data: Any, kinds: Any, starts: Any, ends: Any) -> Spans:
    from gpuvec.expr import json_scan

    whole = np.empty(len(kinds), np.int64)
    json_scan.read_whole(data, starts, ends, kinds, whole)
    return Spans(data, kinds, starts, ends, whole)


def _texts(spans: Spans, wanted: NDArray[np.bool_], *, decode: bool) -> pa.Array:
    from gpuvec.expr import json_scan

    if not wanted.any():
        return pa.nulls(len(wanted), pa.string())
    size = int((spans.ends - spans.starts)[wanted].sum())
    offsets = np.empty(len(wanted) + 1, np.int64)
    out = np.empty(size + 4, np.uint8)
    json_scan.copy_texts(spans.data, spans.starts, spans.ends, wanted, decode, offsets, out)
    valid = pa.py_buffer(np.packbits(wanted, bitorder="little"))
    large = pa.Array.from_buffers(
        pa.large_string(), len(wanted), [valid, pa.py_buffer(offsets), pa.py_buffer(out)]
    )
    return large.cast(pa.string())


def _buffers(texts: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    _, offsets, data = texts.buffers()
    if offsets is None or not len(texts):
        return np.zeros(1, np.uint8), np.zeros(len(texts) + 1, np.int32)
    found = np.frombuffer(offsets, np.int32, len(texts) + 1, texts.offset * 4)
    has_data = data is not None and data.size
    return np.frombuffer(data, np.uint8) if has_data else np.zeros(1, np.uint8), found


def _outputs(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    return np.empty(count, np.uint8), np.empty(count, np.int64), np.empty(count, np.int64)
