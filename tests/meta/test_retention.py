import json

import numpy as np
import pytest

from gpuvec.clock import pack_timestamp
from gpuvec.errors import ConflictError
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes import (
    AddField,
    AddPartition,
    DropField,
    DropPartition,
    Flush,
    InitCollection,
    SetEpoch,
    SetTtl,
    Truncate,
    WriteSummary,
    change_from_json,
)
from gpuvec.meta.changes_versions import DropPin, DropTag, Forget, Pin, SetRetention, SetTag
from gpuvec.meta.past import definition_for_rows, state_at
from gpuvec.meta.retention import ALIVE, Needed, ends, needed, newest_version, readable
from gpuvec.schema import Int64, Schema, String
from gpuvec.storage.keys import ulid

HOUR = 3_600_000
SCHEMA = Schema({"id": Int64(), "a": String(nullable=True)}, "id")
INIT = InitCollection(collection_id="c-1", schema=SCHEMA, channels=("s000",))


def after(*changes, state=None):
    state = CollectionState().apply(INIT) if state is None else state
    for change in changes:
        state = state.apply(change)
    return state


def at_hour(hour: float) -> int:
    return pack_timestamp(int(hour * HOUR))


def written(hour: float) -> Flush:
    ts = at_hour(hour)
    line = WriteSummary(
        ts=ts, request_id=f"r{hour}", operation="insert", inserted=1, updated=0, deleted=0,
        size_bytes=5,
    )  # fmt: skip
    return Flush(channel="s000", epoch=1, from_lsn=0, to_lsn=0, last_ts=ts, writes=(line,))


OWNED = after(SetEpoch(channel="s000", epoch=1), written(100))
NONE = np.empty(0, np.int64)


def times(*values):
    return np.array(values, np.int64)


# What is needed


def test_every_version_within_retention_is_needed():
    need = needed(OWNED, 100 * HOUR, retention_s=3600)
    assert need.covers(at_hour(99))
    assert need.covers(at_hour(99.5))
    assert not need.covers(at_hour(99) - 1)


def test_the_newest_version_is_needed_however_old_it_is():
    assert needed(OWNED, 1000 * HOUR, retention_s=3600).since == newest_version(OWNED)
    assert needed(OWNED, 1000 * HOUR, retention_s=0).covers(at_hour(100))


def test_the_retention_of_a_collection_goes_before_that_of_the_settings():
    state = after(SetRetention(retention_s=10 * 3600.0), state=OWNED)
    assert needed(state, 100 * HOUR, retention_s=3600).since == at_hour(90)
    state = after(SetRetention(retention_s=None), state=state)
    assert needed(state, 100 * HOUR, retention_s=3600).since == at_hour(99)


def test_tags_and_living_pins_are_needed_beyond_retention():
    state = after(
        SetTag(name="t", version=at_hour(5)),
        Pin(pin_id="p", version=at_hour(3), since_ms=0, expires_ms=101 * HOUR),
        Pin(pin_id="q", version=at_hour(2), since_ms=0, expires_ms=100 * HOUR),
        SetTag(name="young", version=at_hour(99.5)),
        state=OWNED,
    )
    assert needed(state, 100 * HOUR, retention_s=3600).points == (at_hour(3), at_hour(5))


def test_what_was_forgotten_is_not_needed_again_by_a_longer_retention():
    state = after(Forget(since=at_hour(99), points=(), time_ms=0), state=OWNED)
    assert needed(state, 100 * HOUR, retention_s=90 * 3600).since == at_hour(99)


# Rows


def test_a_row_is_kept_while_a_needed_version_sees_it():
    need = Needed(since=100, points=(10, 50))
    inserted = times(5, 10, 11, 11, 49, 60, 60, 99, 100, 150, 150)
    deleted = times(10, 11, 50, 51, ALIVE, 99, 101, 100, 101, ALIVE, 160)
    kept = [False, True, False, True, True, False, True, False, True, True, True]
    assert need.keeps(inserted, deleted).tolist() == kept


def test_keeps_agrees_with_trying_every_version():
    random = np.random.default_rng(7)
    for _ in range(200):
        since = int(random.integers(0, 40))
        points = sorted({int(p) for p in random.integers(0, 40, 4) if p < since})
        inserted = random.integers(0, 50, 30)
        deleted = np.where(random.random(30) < 0.3, ALIVE, inserted + random.integers(1, 30, 30))
        versions = [*points, *range(since, 90)]
        want = [any(i <= v < d for v in versions) for i, d in zip(inserted, deleted, strict=True)]
        assert Needed(since, tuple(points)).keeps(inserted, deleted).tolist() == want


def test_a_row_ends_with_its_delete_a_truncation_or_its_partition():
    state = after(
        AddPartition(name="p", ts=1), Truncate(ts=20), DropPartition(name="p", ts=30),
        AddPartition(name="p", ts=31), DropPartition(name="p", ts=40), state=OWNED,
    )  # fmt: skip
    need = needed(state, 0, retention_s=0)
    inserted = times(10, 10, 25, 25, 35, 41)
    found = ends(state, need, "p", inserted, times(0, 3), times(12, 39))
    assert found.tolist() == [12, 20, 30, 30, 40, ALIVE]
    found = ends(state, need, "", inserted, times(0, 3), times(12, 39))
    assert found.tolist() == [12, 20, ALIVE, 39, ALIVE, ALIVE]


def test_the_first_of_several_deletes_counts():
    need = needed(OWNED, 0, retention_s=0)
    found = ends(OWNED, need, "", times(1, 1), times(0, 1, 0), times(5, 6, 7))
    assert found.tolist() == [5, 6]


def test_rows_that_outlived_their_time_before_retention_are_kept_for_tags_alone():
    state = after(
        SetTtl(ttl_s=3600.0), SetTag(name="t", version=at_hour(10.5)), written(100),
        state=OWNED,
    )  # fmt: skip
    state = after(SetTtl(ttl_s=7200.0, ts=at_hour(101)), state=state)
    need = needed(state, 200 * HOUR, retention_s=3600)
    inserted = times(at_hour(10), at_hour(11), at_hour(199))
    keeps = need.keeps(inserted, ends(state, need, "", inserted, NONE, NONE))
    assert keeps.tolist() == [True, False, True]
    state = after(SetTtl(ttl_s=None, ts=at_hour(102)), state=state)
    assert ends(state, need, "", inserted, NONE, NONE).tolist() == [ALIVE] * 3


# Forgetting


def test_a_tag_that_came_meanwhile_stops_a_compaction_that_did_not_know_it():
    state = after(SetTag(name="t", version=at_hour(5)), state=OWNED)
    with pytest.raises(ConflictError, match="is needed"):
        after(Forget(since=at_hour(9), points=(), time_ms=0), state=state)
    assert readable(
        after(Forget(since=at_hour(9), points=(at_hour(5),), time_ms=0), state=state), at_hour(5)
    )
    assert after(Forget(since=at_hour(5), points=(), time_ms=0), state=state).past.forgotten


def test_a_living_pin_stops_forgetting_and_an_expired_one_goes():
    pin = Pin(pin_id="p", version=at_hour(5), since_ms=0, expires_ms=7)
    state = after(pin, state=OWNED)
    with pytest.raises(ConflictError):
        after(Forget(since=at_hour(9), points=(), time_ms=6), state=state)
    state = after(Forget(since=at_hour(9), points=(), time_ms=7), state=state)
    assert not state.pins
    with pytest.raises(ConflictError, match="forgotten"):
        after(pin, state=state)


def test_a_forgotten_version_cannot_be_tagged_or_pinned():
    state = after(
        SetTag(name="t", version=at_hour(5)),
        Forget(since=at_hour(9), points=(at_hour(5),), time_ms=0),
        SetTag(name="same", version=at_hour(5)),
        state=OWNED,
    )
    with pytest.raises(ConflictError, match="forgotten"):
        after(SetTag(name="u", version=at_hour(5) + 1), state=state)
    state = after(DropTag(name="t"), DropTag(name="same"), state=state)
    assert not readable(state, at_hour(5))
    with pytest.raises(ConflictError, match="forgotten"):
        after(SetTag(name="t", version=at_hour(5)), state=state)


def test_a_tag_names_one_version():
    state = after(SetTag(name="t", version=at_hour(5)), state=OWNED)
    assert after(SetTag(name="t", version=at_hour(5)), state=state) == state
    with pytest.raises(ConflictError, match="another version"):
        after(SetTag(name="t", version=at_hour(6)), state=state)
    with pytest.raises(ConflictError, match="no tag"):
        after(DropTag(name="u"), state=state)


def test_dropping_a_pin_that_is_gone_changes_nothing():
    assert after(DropPin(pin_id="p"), state=OWNED) == OWNED


# The state of a version


PAST = after(
    AddPartition(name="p", ts=10),
    AddField(name="b", field_type=String(nullable=True), ts=20),
    Truncate(ts=30),
    DropField(name="a", ts=40),
    DropPartition(name="p", ts=50),
    SetTtl(ttl_s=9.0, ts=60),
    AddPartition(name="p", ts=70),
    Truncate(ts=80),
    DropPartition(name="p", ts=90),
    AddField(name="a", field_type=Int64(nullable=True), ts=95),
    state=CollectionState().apply(INIT).apply(SetEpoch(channel="s000", epoch=1)),
)


def seen(state, version):
    found = state_at(state, version)
    return (
        tuple(found.schema.fields),
        found.truncated_ts,
        sorted(found.partitions),
        dict(found.dropped_partitions),
        found.ttl_s,
    )


HISTORY = {
    5: (("id", "a"), 0, [], {}, None),
    10: (("id", "a"), 0, ["p"], {}, None),
    20: (("id", "a", "b"), 0, ["p"], {}, None),
    30: (("id", "a", "b"), 30, ["p"], {}, None),
    39: (("id", "a", "b"), 30, ["p"], {}, None),
    40: (("id", "b"), 30, ["p"], {}, None),
    50: (("id", "b"), 30, [], {"p": 50}, None),
    60: (("id", "b"), 30, [], {"p": 50}, 9.0),
    75: (("id", "b"), 30, ["p"], {"p": 50}, 9.0),
    80: (("id", "b"), 80, ["p"], {"p": 50}, 9.0),
    94: (("id", "b"), 80, [], {"p": 90}, 9.0),
    95: (("id", "b", "a"), 80, [], {"p": 90}, 9.0),
}


def test_a_version_has_the_schema_partitions_and_truncations_of_its_time():
    assert {version: seen(PAST, version) for version in HISTORY} == HISTORY


def test_a_field_that_was_dropped_and_added_again_is_another_field_at_each_version():
    assert state_at(PAST, 39).field_versions["a"] == 1
    assert state_at(PAST, 95).field_versions["a"] == 4


def test_changes_of_definition_are_told_with_the_writes():
    told = [write.operation for write in state_at(PAST, 50).history]
    assert told == ["add_field b", "truncate", "drop_field a", "drop_partition p"]


def test_a_past_comes_back_from_json_as_it_was():
    state = after(
        SetTag(name="t", version=4), SetRetention(retention_s=7.0),
        Pin(pin_id="p", version=4, since_ms=1, expires_ms=2), state=PAST,
    )  # fmt: skip
    assert CollectionState.from_json(json.loads(json.dumps(state.to_json()))) == state


def test_a_state_from_before_versions_can_be_read():
    data = json.loads(json.dumps(PAST.to_json()))
    for name in ("past", "tags", "pins", "retention_s", "changed_ts"):
        del data[name]
    found = CollectionState.from_json(data)
    assert seen(found, 85)[1] == 80
    assert seen(found, 95) == HISTORY[95]


def test_forgetting_keeps_what_needed_versions_look_like():
    random = np.random.default_rng(3)
    for _ in range(100):
        since = int(random.integers(1, 100))
        points = tuple(sorted({int(p) for p in random.integers(1, 100, 2) if p < since}))
        state = after(Forget(since=since, points=points, time_ms=0), state=PAST)
        for version in {*points, since, *(v for v in HISTORY if v > since)}:
            assert seen(state, version) == seen(PAST, version)
    everything = after(Forget(since=99, points=(), time_ms=0), state=PAST)
    assert not everything.past.definitions
    assert len(everything.past.truncations) == len(everything.past.partitions) == 1


CHANGES = [
    SetTag(name="t", version=4), DropTag(name="t"), DropPin(pin_id="p"),
    Pin(pin_id="p", version=4, since_ms=1, expires_ms=2),
    SetRetention(retention_s=None), SetRetention(retention_s=1.5),
    Forget(since=4, points=(1, 2), time_ms=9), DropField(name="a", ts=4), SetTtl(ttl_s=None, ts=3),
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: type(change).__name__)
def test_a_change_comes_back_from_json_as_it_was(change):
    assert change_from_json(json.loads(json.dumps(change.to_json()))) == change


def test_changes_written_before_they_had_a_time_hold_for_all_versions():
    old = [
        {"change": "AddField", "name": "b", "field_type": String(nullable=True).to_json()},
        {"change": "DropField", "name": "a"},
        {"change": "SetTtl", "ttl_s": 4.0},
    ]
    state = after(*map(change_from_json, old))
    assert seen(state, 0) == (("id", "b"), 0, [], {}, 4.0)


def test_tagged_versions_stay_listed():
    tagged = SetTag(name="t", version=at_hour(100))
    state = after(tagged, written(101), written(102), written(300), state=OWNED)
    assert [write.ts for write in state.history] == [at_hour(100), at_hour(102), at_hour(300)]


def test_versions_are_listed_as_long_as_they_are_kept():
    state = after(SetRetention(retention_s=300 * 3600.0), written(300), state=OWNED)
    assert [write.ts for write in state.history] == [at_hour(100), at_hour(300)]


def test_rows_are_rewritten_under_the_newest_schema_that_loses_nothing_needed():
    wide = after(
        AddField(name="b", field_type=String(nullable=True), ts=10),
        DropField(name="a", ts=20),
        AddField(name="c", field_type=String(nullable=True), ts=30),
        AddField(name="a", field_type=Int64(nullable=True), ts=40),
    )
    assert [definition_for_rows(wide, v).schema_version for v in range(1, 6)] == [2, 2, 5, 5, 5]
    state = after(Forget(since=20, points=(), time_ms=0), state=wide)
    assert [definition_for_rows(state, v).schema_version for v in range(1, 6)] == [5] * 5
    state = after(Forget(since=30, points=(5,), time_ms=0), state=wide)
    assert [definition_for_rows(state, v).schema_version for v in range(1, 6)] == [1, 5, 5, 5, 5]


def test_a_collection_younger_than_its_retention_forgets_nothing():
    name = f"c-{ulid(100 * HOUR, '0' * 32)}"
    first = InitCollection(collection_id=name, schema=SCHEMA, channels=("s000",))
    state = after(
        SetEpoch(channel="s000", epoch=1), written(100), state=CollectionState().apply(first)
    )
    assert needed(state, 100 * HOUR, retention_s=3600).since == 0
    assert needed(state, 102 * HOUR, retention_s=3600).since == at_hour(100)


def test_the_version_that_held_when_retention_began_is_needed_by_its_number():
    state = after(written(98), written(102), state=OWNED)
    need = needed(state, 101 * HOUR, retention_s=3600 * 2)
    assert need.since == at_hour(98)
    state = after(written(150), state=OWNED)
    assert [write.ts for write in state.history] == [at_hour(100), at_hour(150)]
