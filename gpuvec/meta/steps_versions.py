"""What the changes of versions do to a collection's state; see `gpuvec.meta.steps`."""

from collections.abc import Callable
from dataclasses import fields, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from gpuvec.errors import manifest_conflict
from gpuvec.meta.changes import Change, WriteSummary
from gpuvec.meta.changes_versions import (
    AdoptState,
    DropPin,
    DropTag,
    Forget,
    Pin,
    SetRetention,
    SetTag,
)
from gpuvec.meta.past import Definition, PinRecord
from gpuvec.types import RequestId, Timestamp

if TYPE_CHECKING:
    from gpuvec.meta.catalog import CollectionState

_Changed = dict[str, Any]


def redefined(state: "CollectionState", ts: Timestamp, operation: str) -> _Changed:
    """Return what a change of schema or time to live at `ts` adds; 0: it holds for all versions."""
    if ts == 0:
        return {}
    before = Definition(
        until=ts,
        schema=state.schema,
        schema_version=state.schema_version,
        field_versions=state.field_versions,
        ttl_s=state.ttl_s,
    )
    return {
        "changed_ts": max(ts, state.changed_ts),
        "past": replace(state.past, definitions=(*state.past.definitions, before)),
        "history": told(state, ts, operation),
    }


def told(state: "CollectionState", ts: Timestamp, operation: str) -> tuple[WriteSummary, ...]:
    """Return the history with a change that was no write."""
    line = WriteSummary(
        ts=ts,
        request_id=RequestId(""),
        operation=operation,
        inserted=0,
        updated=0,
        deleted=0,
        size_bytes=0,
    )
    return tuple(sorted((*state.history, line), key=attrgetter("ts")))


def _set_tag(state: "CollectionState", change: SetTag) -> _Changed:
    if state.tags.get(change.name, change.version) != change.version:
        raise manifest_conflict(f'another version has the tag "{change.name}"')
    _check_kept(state, change.version)
    return {"tags": {**state.tags, change.name: change.version}}


def _drop_tag(state: "CollectionState", change: DropTag) -> _Changed:
    if change.name not in state.tags:
        raise manifest_conflict(f'there is no tag "{change.name}"')
    return {"tags": {name: ts for name, ts in state.tags.items() if name != change.name}}


def _pin(state: "CollectionState", change: Pin) -> _Changed:
    _check_kept(state, change.version)
    pin = PinRecord(version=change.version, since_ms=change.since_ms, expires_ms=change.expires_ms)
    return {"pins": {**state.pins, change.pin_id: pin}}


def _drop_pin(state: "CollectionState", change: DropPin) -> _Changed:
    return {"pins": {name: pin for name, pin in state.pins.items() if name != change.pin_id}}


def _set_retention(_: "CollectionState", change: SetRetention) -> _Changed:
    return {"retention_s": change.retention_s}


def _forget(state: "CollectionState", change: Forget) -> _Changed:
    kept = set(change.points)
    alive = {n: pin for n, pin in state.pins.items() if pin.expires_ms > change.time_ms}
    wanted = {*state.tags.values(), *(pin.version for pin in alive.values())}
    lost = sorted(version for version in wanted - kept if version < change.since)
    if lost:
        raise manifest_conflict(f"version {lost[0]} is needed")
    return {"past": state.past.without(change.since, change.points), "pins": alive}


def _adopt_state(state: "CollectionState", change: AdoptState) -> _Changed:
    if any(channel.epoch for channel in state.channels.values()):
        raise manifest_conflict("the copy was written to")
    found = type(state).from_json(change.state)
    return {item.name: getattr(found, item.name) for item in fields(found)}


def _check_kept(state: "CollectionState", version: Timestamp) -> None:
    """Raise when a version was forgotten."""
    points = {*state.tags.values(), *(pin.version for pin in state.pins.values())}
    if version < state.past.forgotten and version not in points:
        raise manifest_conflict(f"version {version} was forgotten")


STEPS: dict[type[Change], Callable[["CollectionState", Any], _Changed]] = {
    SetTag: _set_tag,
    DropTag: _drop_tag,
    Pin: _pin,
    DropPin: _drop_pin,
    SetRetention: _set_retention,
    Forget: _forget,
    AdoptState: _adopt_state,
}
