"""Bulk import: rows of files become segments of a collection without passing through its log.

Steps, and what a death after each leaves behind:

1. The caller plans: which rows of which files make a part, under a name that follows from the list
   of files.
   → A job's folder with a plan. The same import later takes the plan over; a day later it goes.
2. `write_part`, for each part: each channel's rows sorted by key in segment files, then a step that
   names them.
   → Files that no manifest names, and perhaps a step: parts with a step are not written again,
   files without one are orphans.
3. `ImportedKeys` compares the keys of a channel's segments with one another and with those that
   the channel has.
   → As after 2.
4. `import_settle.settle`, under the lock of all channels and with nothing in their logs that is not
   in files: what was written meanwhile is compared too, rows that lose are listed as deleted, and
   one entry of the manifest makes all others visible, at one timestamp.
   → Answer lost: whoever imports the same again finds the write in the history.
5. The caller deletes the job's folder.
   → The next collection deletes it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpuvec import errors
from gpuvec.messages import OnConflict
from gpuvec.meta.catalog import SegmentRecord
from gpuvec.meta.import_jobs import PartDone
from gpuvec.node.flush import orders
from gpuvec.rows import DenseVectors, Rows, SparseVectors, VectorColumn
from gpuvec.segment.keys import Positions, one_array, sort_by_key
from gpuvec.segment.routing import channel_of, places_by_channel
from gpuvec.segment.visible import Layout
from gpuvec.storage.object_store import Procedure, Put
from gpuvec.storage.segment_files import TIMESTAMP_COLUMN, write_segment
from gpuvec.types import ChannelName, SegmentId

Locate = Callable[[Any], Sequence[str]]  # a key: the places in the files that hold it


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What the segments of an import have in common.

    Attributes:
        prefix: of the collection.
        channels: of the collection, the lowest first.
        layout: the schema that rows were validated against.
        group_bytes: of the segments that are made at once, one per channel; about.
        group_rows: of them, about.
        locate: for messages about keys that come twice.
    """

    prefix: str
    channels: tuple[ChannelName, ...]
    partition: str
    layout: Layout
    on_conflict: OnConflict
    group_bytes: int
    group_rows: int
    mint: Callable[[], SegmentId]
    locate: Locate


# Step 2


def write_part(number: int, batches: Iterable[Rows], goal: Goal) -> Procedure[PartDone]:
    """Write the rows of one part; segments begin anew when a group of them is large enough.

    Args:
        number: of the part.
        batches: validated, with keys; those of one group are in memory at once.
        goal: see `Goal`.

    Raises:
        SchemaError: `GV-663`, a key that comes twice, unless such rows are skipped or replaced.
    """
    records: list[SegmentRecord] = []
    rows = 0
    for group in _groups(batches, goal):
        rows += sum(map(len, group))
        for channel, share in _shares(group, goal):
            for order in orders(share, goal.layout.schema, share.nbytes):
                part = share if len(order) == len(share) else share.take(order)
                records.append((yield from _write_segment(part, channel, goal)))
    return PartDone(part=number, segments=tuple(records), rows=rows)


def _groups(batches: Iterable[Rows], goal: Goal) -> Iterator[list[Rows]]:
    """Yield the batches of one group after another; none that is empty."""
    waiting: list[Rows] = []
    size = rows = 0
    for batch in batches:
        if len(batch):
            waiting.append(batch)
            size, rows = size + batch.nbytes, rows + len(batch)
        if size >= goal.group_bytes or rows >= goal.group_rows:
            yield waiting
            waiting, size, rows = [], 0, 0
    if waiting:
        yield waiting


def _shares(batches: Sequence[Rows], goal: Goal) -> Iterator[tuple[ChannelName, Rows]]:
    """Yield each channel's rows, sorted by key, each key once. Vectors are copied once."""
    table = pa.concat_tables([batch.table for batch in batches])
    keys = one_array(table[goal.layout.schema.primary_key])
    order = _order(keys, goal)
    if len(goal.channels) == 1:
        found = Rows.concat(batches) if order is None else _taken(batches, table, order)
        yield goal.channels[0], found
        return
    numbers = channel_of(keys, len(goal.channels))
    order = np.arange(len(keys)) if order is None else order
    places = places_by_channel(numbers[order], len(goal.channels))
    for channel, own in zip(goal.channels, places, strict=True):
        if len(own):
            yield channel, _taken(batches, table, order[own])


def _order(keys: pa.Array, goal: Goal) -> Positions | None:
    """Return the rows in the order of their keys, each key once; None for all as they come."""
    found = sort_by_key(keys)
    first_wins = goal.on_conflict is OnConflict.SKIP
    stay = _once(keys if found is None else keys.take(pa.array(found)), first_wins)
    if stay is None:
        return found
    order = np.arange(len(keys)) if found is None else found
    if goal.on_conflict is OnConflict.ERROR:
        key = keys[int(order[int(np.argmin(stay))])].as_py()
        name = goal.layout.schema.primary_key
        raise errors.duplicate_in_files(name, key, goal.locate(key), int((~stay).sum()))
    return order[stay]


def _taken(batches: Sequence[Rows], table: pa.Table, order: Positions) -> Rows:
    """Return the given rows of all batches; `table` has their scalar columns."""
    vectors: dict[str, VectorColumn] = {}
    for field in batches[0].vectors:
        vectors[field] = _gather([batch.vectors[field] for batch in batches], order)
    return Rows(table.take(pa.array(order)), vectors, batches[0].order)


def _once(keys: pa.Array, first_wins: bool) -> NDArray[np.bool_] | None:
    """Return which of sorted keys stay, the first or the last of each; None when all do."""
    if len(keys) < 2:
        return None
    if pa.types.is_integer(keys.type):
        values = keys.to_numpy(zero_copy_only=False)
        same = values[1:] == values[:-1]
    else:
        equal = pc.equal(keys[1:], keys[:-1])
        same = np.asarray(equal.to_numpy(zero_copy_only=False), bool)
    if not same.any():
        return None
    return ~np.append(False, same) if first_wins else ~np.append(same, False)


def _gather(parts: Sequence[Any], order: Positions) -> VectorColumn:
    """Return the given rows of all parts, one after the other; each is copied once."""
    if isinstance(parts[0], SparseVectors):
        return SparseVectors.concat(parts).take(order)
    first: DenseVectors = parts[0]
    starts = np.cumsum([0, *map(len, parts)])
    place = np.full(starts[-1], -1, np.int64)
    place[order] = np.arange(len(order))
    values = np.empty((len(order), first.values.shape[1]), first.values.dtype)
    valid = None if all(part.valid is None for part in parts) else np.ones(len(order), bool)
    for part, low, high in zip(parts, starts[:-1], starts[1:], strict=True):
        to = place[low:high]
        stay = to >= 0
        whole = bool(stay.all())
        values[to if whole else to[stay]] = part.values if whole else part.values[stay]
        if valid is not None and part.valid is not None:
            valid[to if whole else to[stay]] = part.valid if whole else part.valid[stay]
    return DenseVectors(values, valid)


def _write_segment(rows: Rows, channel: ChannelName, goal: Goal) -> Procedure[SegmentRecord]:
    """Write one segment. When its rows come to be is not known yet: the file says 0."""
    segment_id = goal.mint()
    times = np.zeros(len(rows), np.int64)
    files, written = write_segment(goal.prefix, segment_id, goal.layout.schema, rows, times)
    for key, parts in files:
        yield Put(key, parts)
    known = {n: bounds for n, bounds in written.statistics.items() if n != TIMESTAMP_COLUMN}
    return SegmentRecord(
        segment_id=segment_id,
        channel=channel,
        partition=goal.partition,
        schema_version=goal.layout.version,
        row_count=len(rows),
        size_bytes=written.size_bytes,
        first_ts=0,
        last_ts=0,
        files=replace(written, statistics=known).to_json(),
        ts=0,
    )
