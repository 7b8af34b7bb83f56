import json
from dataclasses import replace

import pytest

from gpuvec.clock import pack_timestamp
from gpuvec.errors import ConflictError
from gpuvec.meta.access import DropRole, DropUser, SetQuota, SetRole, SetUser
from gpuvec.meta.catalog import (
    HISTORY_LINES,
    CollectionState,
    DatabaseState,
    SegmentRecord,
    WriteSummary,
)
from gpuvec.meta.changes import (
    AddField,
    AddIndex,
    AddPartition,
    CreateCollection,
    DropAlias,
    DropCollection,
    DropField,
    DropIndex,
    DropPartition,
    Flush,
    GrantLeases,
    InitCollection,
    MarkDead,
    RenameCollection,
    ReserveTime,
    SetAlias,
    SetEpoch,
    SetIndex,
    SetTtl,
    TakeGeneration,
    Truncate,
    change_from_json,
)
from gpuvec.meta.indexes import IndexDefinition, IndexRecord
from gpuvec.schema import Float32, Int64, List, Schema, String, Vector

SCHEMA = Schema({"id": Int64(auto=True), "v": Vector(8, dtype="float16")}, "id", dynamic=True)
INIT = InitCollection(collection_id="c-1", schema=SCHEMA, channels=("s000", "s001"))


def segment(name: str, **parts) -> SegmentRecord:
    values = {
        "channel": "s000",
        "partition": "",
        "schema_version": 1,
        "row_count": 10,
        "size_bytes": 100,
        "first_ts": 1,
        "last_ts": 9,
        "files": {"scalar": {"key": f"seg/{name}/scalar.parquet", "crc32c": 7}},
    }
    return SegmentRecord(segment_id=name, **{**values, **parts})


def summary(ts: int, request: str = "r") -> WriteSummary:
    return WriteSummary(
        ts=ts, request_id=request, operation="insert", inserted=1, updated=0, deleted=0,
        size_bytes=5, first_auto_id=3,
    )  # fmt: skip


def flush(**parts) -> Flush:
    values = {"channel": "s000", "epoch": 1, "from_lsn": 0, "to_lsn": 5, "last_ts": 9}
    return Flush(**{**values, **parts})


def after(*changes, state=None):
    state = CollectionState() if state is None else state
    for change in changes:
        state = state.apply(change)
    return state


def wish(index_id="i", field="v", **parts) -> SetIndex:
    values = {"spec": {"kind": "auto"}, "recall": 0.95}
    return SetIndex(
        definition=IndexDefinition(index_id=index_id, field=field, **{**values, **parts})
    )


def add(segment_id, index_id="j", definition_id="i", field="v", under=None) -> AddIndex:
    key = f"collections/c-1/idx/{segment_id}/{under or index_id}/graph"
    return AddIndex(
        segment_id=segment_id,
        record=IndexRecord(
            index_id=index_id, definition_id=definition_id, field=field, spec={"kind": "hnsw"},
            files={"graph": {"key": key, "length": 3, "crc32c": 4}}, size_bytes=3,
        ),
    )  # fmt: skip


OWNED = after(INIT, SetEpoch(channel="s000", epoch=1))
CHANGES = [
    TakeGeneration(),
    CreateCollection(name="ä", collection_id="c-1"),
    DropCollection(name="a"),
    RenameCollection(old="a", new="b"),
    SetAlias(alias="x", name="a"),
    DropAlias(alias="x"),
    GrantLeases(lease_s=3.0),
    ReserveTime(until_ms=7000),
    SetUser(name="ann", secret="s", roles=("a", "b")),
    DropUser(name="ann"),
    SetRole(name="a", grants=(("read", "*"), ("write", "c-1"))),
    DropRole(name="a"),
    SetQuota(collection_id="", limits={"rows": 7}),
    INIT,
    AddField(name="tags", field_type=List(String(), nullable=True, default=["a"])),
    DropField(name="v"),
    AddPartition(name="p", ts=4),
    DropPartition(name="p", ts=6),
    Truncate(ts=8),
    SetTtl(ttl_s=1.5),
    SetTtl(ttl_s=None),
    SetEpoch(channel="s000", epoch=2),
    flush(
        segments=(segment("a"), segment("b", deletes={"key": "dv/b/x.arrow"})),
        deletes={"a": {"key": "dv/a/y.arrow", "crc32c": 1}},
        writes=(summary(3), summary(4)),
        fences=(1, 2),
    ),
    MarkDead(ids=("a", "b")),
    SetIndex(
        definition=IndexDefinition(
            index_id="i", field="v", spec={"kind": "hnsw", "m": 16}, recall=0.9, k=5, max_memory=99
        )
    ),
    SetIndex(
        definition=IndexDefinition(index_id="i", field="v", spec={"kind": "auto"}), keeps=True
    ),
    DropIndex(field="v"),
    AddIndex(
        segment_id="a",
        record=IndexRecord(
            index_id="j", definition_id="i", field="v", spec={"kind": "hnsw", "m": 16},
            files={"graph": {"key": "idx/a/j/graph", "length": 3, "crc32c": 4}},
            size_bytes=3, summary={"recall": 0.97},
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: type(change).__name__)
def test_a_change_comes_back_from_json_as_it_was(change):
    assert change_from_json(json.loads(json.dumps(change.to_json()))) == change


def test_a_state_comes_back_from_json_as_it_was():
    state = after(
        SetTtl(ttl_s=3.0), AddPartition(name="p", ts=4), CHANGES[14], CHANGES[22],
        DropPartition(name="p", ts=6), Truncate(ts=8), MarkDead(ids=("z",)),
        wish(), add("a"), state=OWNED,
    )  # fmt: skip
    assert state.segments["a"].indexes["v"].definition_id == "i"
    again = CollectionState.from_json(json.loads(json.dumps(state.to_json())))
    assert again == state
    assert again.schema == state.schema
    database = DatabaseState(collections={"a": "c-1"}, aliases={"x": "a"})
    assert DatabaseState.from_json(json.loads(json.dumps(database.to_json()))) == database


def test_applying_a_change_leaves_the_old_state():
    before = OWNED.to_json()
    OWNED.apply(flush(segments=(segment("a"),), writes=(summary(3),)))
    assert OWNED.to_json() == before


def test_names_and_aliases_follow_a_collection():
    state = DatabaseState()
    for change in (
        CreateCollection(name="a", collection_id="c-1"),
        CreateCollection(name="b", collection_id="c-2"),
        SetAlias(alias="x", name="a"),
        RenameCollection(old="a", new="z"),
    ):
        state = state.apply(change)
    assert [state.resolve(name) for name in ("z", "x", "b", "a")] == ["c-1", "c-1", "c-2", None]
    state = state.apply(SetAlias(alias="x", name="b"))
    assert state.resolve("x") == "c-2"
    assert state.apply(DropCollection(name="b")).resolve("x") is None


@pytest.mark.parametrize(
    "change",
    [
        CreateCollection(name="a", collection_id="c-9"),
        CreateCollection(name="x", collection_id="c-9"),
        DropCollection(name="x"),
        RenameCollection(old="q", new="z"),
        RenameCollection(old="a", new="x"),
        SetAlias(alias="a", name="a"),
        SetAlias(alias="y", name="q"),
        DropAlias(alias="a"),
    ],
)
def test_a_name_is_never_taken_twice_and_must_exist(change):
    state = DatabaseState(collections={"a": "c-1"}, aliases={"x": "a"})
    with pytest.raises(ConflictError, match="another change came first") as told:
        state.apply(change)
    assert told.value.code == "GV-525"


def test_leases_may_be_out_until_somebody_says_otherwise():
    state = DatabaseState().apply(GrantLeases(lease_s=3.0)).apply(TakeGeneration())
    assert state.lease_s == 3.0
    assert DatabaseState.from_json(state.to_json()) == state
    assert state.apply(GrantLeases(lease_s=0.0)).lease_s == 0.0
    assert DatabaseState.from_json({"collections": {}, "aliases": {}}).lease_s == 0.0


def test_a_field_dropped_and_added_again_is_a_new_one():
    state = after(DropField(name="v"), AddField(name="v", field_type=Float32()), state=OWNED)
    old = segment("a")
    assert old.schema_version < state.field_versions["v"]
    assert old.schema_version >= state.field_versions["id"]
    assert list(state.schema.fields) == ["id", "v"]


def test_a_partition_added_again_after_its_drop_hides_the_old_rows():
    state = after(
        AddPartition(name="p", ts=1), DropPartition(name="p", ts=5), AddPartition(name="p", ts=7),
        AddPartition(name="p", ts=9), state=OWNED,
    )  # fmt: skip
    assert state.partitions == {"p": 7}
    assert state.dropped_partitions == {"p": 5}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (flush(epoch=2), "newer owner"),
        (flush(from_lsn=1), "flushed to 0"),
        (flush(channel="s009"), "no channel"),
        (flush(segments=(segment("dead"),)), "orphans"),
        (flush(segments=(segment("a", deletes={"key": "dv/a/dead.arrow"}),)), "orphans"),
        (flush(segments=(segment("a"),), deletes={"a": {"key": "dv/a/dead.arrow"}}), "orphans"),
        (flush(deletes={"gone": {"key": "dv/gone/x.arrow"}}), "gone"),
        (SetEpoch(channel="s000", epoch=3), "newer owner"),
        (SetEpoch(channel="s000", epoch=1), "newer owner"),
        (INIT, "exists"),
        (AddField(name="v", field_type=Float32()), "exists"),
        (DropField(name="w"), "no field"),
        (DropPartition(name="w", ts=1), "no partition"),
    ],
)
def test_conditions_refuse_what_came_too_late(change, why):
    with pytest.raises(ConflictError, match=why):
        after(MarkDead(ids=("dead",)), change, state=OWNED)


def test_nothing_happens_before_a_collection_is_created():
    with pytest.raises(ConflictError, match="not created"):
        after(Truncate(ts=1))


def test_files_in_use_cannot_be_marked_dead():
    state = after(flush(segments=(segment("a", deletes={"key": "dv/a/d.arrow"}),)), state=OWNED)
    for name in ("a", "d"):
        with pytest.raises(ConflictError, match="in use"):
            state.apply(MarkDead(ids=("free", name)))


def test_a_flush_moves_position_segments_and_history_at_once():
    state = after(
        flush(segments=(segment("a"),), writes=(summary(3),), fences=(1,)),
        flush(from_lsn=5, to_lsn=8, writes=(summary(12),), fences=(1, 6), last_ts=12),
        state=OWNED,
    )
    channel = state.channels["s000"]
    assert (channel.flushed_lsn, channel.flushed_ts, channel.fences) == (8, 12, (1, 6))
    assert [write.ts for write in state.history] == [3, 12]
    assert state.channels["s001"].flushed_lsn == 0


def test_history_ends_after_a_day_and_after_many_lines():
    hour = 3_600_000
    writes = tuple(summary(pack_timestamp(i * hour)) for i in range(40))
    state = after(flush(writes=writes), state=OWNED)
    assert state.history == writes[15:]
    many = tuple(summary(pack_timestamp(40 * hour, i)) for i in range(HISTORY_LINES))
    state = after(flush(from_lsn=5, to_lsn=6, writes=many), state=state)
    assert state.history == many


FLUSHED = after(flush(segments=(segment("a"), segment("b"))), state=OWNED)


def test_manifests_from_before_there_were_indexes_are_read():
    data = json.loads(json.dumps(FLUSHED.to_json()))
    del data["indexes"]
    for item in data["segments"]:
        del item["indexes"]
    assert CollectionState.from_json(data) == FLUSHED


def test_an_index_belongs_to_a_segment_and_a_definition():
    state = after(wish(), add("a"), state=FLUSHED)
    assert set(state.segments["a"].indexes) == {"v"}
    assert not state.segments["b"].indexes
    again = state.apply(add("a", "k"))
    assert again.segments["a"].indexes["v"].index_id == "k"


@pytest.mark.parametrize(
    ("why", "change"),
    [
        ("no segment", add("z")),
        ("another index", add("a", definition_id="older")),
        ("another index", add("a", field="id")),
        ("no field", wish(field="w")),
        ("no index", DropIndex(field="id")),
        ("collected", add("a", "dead")),
        ("collected", add("a", "new", under="dead")),
    ],
)
def test_a_change_of_indexes_that_cannot_be_is_refused(why, change):
    state = after(wish(), MarkDead(ids=("dead",)), state=FLUSHED)
    with pytest.raises(ConflictError, match=why):
        state.apply(change)


@pytest.mark.parametrize("change", [DropIndex(field="v"), DropField(name="v"), wish("new")])
def test_what_is_no_longer_wanted_leaves_every_segment(change):
    state = after(wish(), add("a"), add("b", "k"), change, state=FLUSHED)
    assert not any(segment.indexes for segment in state.segments.values())
    assert [d.index_id for d in state.indexes.values()] == (
        ["new"] if isinstance(change, SetIndex) else []
    )
    with pytest.raises(ConflictError):
        state.apply(add("a", "late"))


def test_segments_may_keep_their_index_until_they_get_the_new_one():
    new = replace(wish("new"), keeps=True)
    state = after(wish(), add("a"), add("b", "k"), new, state=FLUSHED)
    assert state.segments["a"].indexes["v"].definition_id == "i"
    with pytest.raises(ConflictError, match="another index"):
        state.apply(add("a", "late"))
    state = after(add("a", "l", definition_id="new"), state=state)
    assert [state.segments[s].indexes["v"].index_id for s in "ab"] == ["l", "k"]
    back = after(replace(wish(), keeps=True), state=state)
    assert [back.segments[s].indexes["v"].definition_id for s in "ab"] == ["new", "i"]
    assert after(DropIndex(field="v"), state=back).segments["b"].indexes == {}


def test_a_wish_written_before_segments_could_keep_theirs_is_read():
    data = wish().to_json()
    del data["keeps"]
    assert change_from_json(data) == wish()


def test_a_field_that_came_after_a_segment_is_not_in_it():
    state = after(AddField(name="w", field_type=Vector(4)), wish("i", "w"), state=FLUSHED)
    with pytest.raises(ConflictError, match="no segment a has"):
        state.apply(add("a", field="w"))
    later = state.apply(flush(from_lsn=5, to_lsn=6, segments=(segment("c", schema_version=2),)))
    assert later.apply(add("c", field="w")).segments["c"].indexes["w"]


def test_a_flush_of_deletes_leaves_the_index():
    state = after(
        wish(), add("a"), flush(from_lsn=5, to_lsn=6, deletes={"a": {"key": "dv/a/y.arrow"}}),
        state=FLUSHED,
    )  # fmt: skip
    assert state.segments["a"].indexes["v"].index_id == "j"


def test_files_of_an_index_in_use_cannot_be_marked_dead():
    state = after(wish(), add("a"), add("a", "k", under="j"), state=FLUSHED)
    with pytest.raises(ConflictError, match="in use"):
        state.apply(MarkDead(ids=("j",)))
    assert "j" in after(DropIndex(field="v"), MarkDead(ids=("j",)), state=state).dead


def test_definitions_that_ask_for_the_same_are_the_same_wish():
    one, other = wish("a").definition, wish("b").definition
    assert one.same_wish(other)
    assert not one.same_wish(wish("b", recall=0.9).definition)
    assert not one.same_wish(wish("b", max_memory=1).definition)
