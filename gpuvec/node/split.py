"""A change of a collection as one change per channel, and their outcomes as one again."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from gpuvec.messages import Change, DeleteRows, InsertRows
from gpuvec.node.writing import concat_keys
from gpuvec.schema import Schema
from gpuvec.segment.keys import Positions, one_array
from gpuvec.segment.routing import channel_of, places_by_channel
from gpuvec.types import ChannelName

Parts = Mapping[ChannelName, tuple[Change, Positions | None]]  # the rows that a part has; None: all


def split(change: Change, channels: Sequence[ChannelName], schema: Schema) -> Parts:
    """Return the channels that a change may concern, and the part of each.

    Args:
        change: an insert's rows have their keys.
        channels: of the collection, the lowest first.
        schema: that the rows have.
    """
    if isinstance(change, InsertRows):
        keys = change.rows.table[schema.primary_key]
        return {
            name: (change if rows is None else replace(change, rows=change.rows.take(rows)), rows)
            for name, rows in _places(keys, channels)
        }
    if isinstance(change, DeleteRows) and change.keys is not None:
        keys = one_array(change.keys)
        return {
            name: (change if rows is None else DeleteRows(keys=keys.take(pa.array(rows))), rows)
            for name, rows in _places(keys, channels)
        }
    return {name: (change, None) for name in channels}


def _places(
    keys: pa.Array | pa.ChunkedArray, channels: Sequence[ChannelName]
) -> list[tuple[ChannelName, Positions | None]]:
    """Return the channels of keys, and which keys each has: None where it has all."""
    places = places_by_channel(channel_of(keys, len(channels)), len(channels))
    found = [(name, rows) for name, rows in zip(channels, places, strict=True) if len(rows)]
    if len(found) < 2:
        return [(found[0][0] if found else channels[0], None)]
    return list(found)


def joined_keys(change: Change, parts: Sequence[pa.Array], schema: Schema) -> pa.Array:
    """Return the keys that all parts of a change wrote or deleted, in the order of the change."""
    found = concat_keys(list(parts), schema)
    if isinstance(change, InsertRows):
        asked = one_array(change.rows.table[schema.primary_key])
    elif isinstance(change, DeleteRows) and change.keys is not None:
        asked = one_array(pc.unique(change.keys))
    else:
        return found
    return asked if len(asked) == len(found) else asked.filter(pc.is_in(asked, value_set=found))
