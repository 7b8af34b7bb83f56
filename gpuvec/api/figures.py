"""What this process knows of its open collections, from memory: nothing here reads a store."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gpuvec import telemetry
from gpuvec.api.index_report import report_of
from gpuvec.clock import unpack_timestamp
from gpuvec.events import Event

if TYPE_CHECKING:
    from gpuvec.api.engine import Engine
    from gpuvec.meta.catalog import CollectionState
    from gpuvec.meters import Reading


def readings(engine: "Engine") -> "list[Reading]":
    """Return the gauges of the collections that are open here, by their present names."""
    found = []
    for channel in engine.channels.all():
        name = engine.names.root.name_of(channel.collection_id)
        if name is None or not engine.usable:
            continue
        segments = channel.state.segments.values()
        found.append(telemetry.SEGMENTS.at(len(segments), name))
        found.append(telemetry.SEGMENT_BYTES.at(sum(s.size_bytes for s in segments), name))
        if channel.owned:
            status = channel.status()
            lag_s = 0.0
            if status.oldest is not None:
                lag_s = max(0.0, (engine.now_ms() - unpack_timestamp(status.oldest)[0]) / 1000)
            found.append(telemetry.GROWING_BYTES.at(status.growing_bytes, name))
            found.append(telemetry.CHANNEL_LAG.at(lag_s, name))
    return found


def described(state: "CollectionState") -> dict[str, Any]:
    """Return what a manifest says of a collection, as plain values for dashboards.

    `segments` of it are pairs of rows and bytes by name; `indexes` tell the recall that was
    measured, by rows of the segments that have one.
    """
    return {
        "fields": len(state.schema.fields),
        "channels": len(state.channels),
        "segments": {
            name: (record.row_count, record.size_bytes) for name, record in state.segments.items()
        },
        "indexes": [_index(state, field) for field in sorted(state.indexes)],
    }


def _index(state: "CollectionState", field: str) -> dict[str, Any]:
    report = report_of(state, field)
    built = [segment for segment in report.segments if segment.has_index]
    return {
        "field": field,
        "kind": str(report.chosen) if built else report.wish,
        "target": report.target,
        "recall": report.recall,
        "recall_low": report.low,
        "segments": len(built),
        "waiting": sum(segment.state in ("waiting", "replacing") for segment in report.segments),
        "bytes": report.size_bytes,
    }


def events_of(engine: "Engine", events: "list[Event]", limit: int) -> list[Event]:
    """Return the newest events of a database, with the present names of collections.

    Args:
        engine: of the database; events of collections that it does not have are left out.
        events: of all databases, oldest first.
        limit: so many at most.
    """
    found: list[Event] = []
    for event in reversed(events):
        if len(found) == limit:
            break
        collection_id = event.details.get("collection")
        name = None if collection_id is None else engine.names.root.name_of(collection_id)
        if name is not None:
            found.append(replace(event, details={**event.details, "collection": name}))
        elif collection_id is None and event.database in ("", engine.store.identity):
            found.append(event)
    return found[::-1]
