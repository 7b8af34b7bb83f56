"""A channel of the real engine on a disk that loses power, at every call that changes the disk."""

import errno
import itertools
import secrets

import numpy as np
import pyarrow as pa
import pytest

from gpuvec.clock import ManualClock
from gpuvec.coord.tso import TimestampOracle
from gpuvec.errors import GpuvecError
from gpuvec.messages import DeleteRows, InsertRows, OnConflict, WriteRequest
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes import InitCollection
from gpuvec.meta.manifest import ManifestLog
from gpuvec.node.channel import CHANNEL, Channel
from gpuvec.rows import DenseVectors, Rows
from gpuvec.schema import Int64, Schema, Vector
from gpuvec.storage import keys
from gpuvec.storage.local import LocalStore
from gpuvec.storage.object_store import run
from gpuvec.testing.disk import ModelDisk, PowerCut

ID = "c-01hf7yat00"
SCHEMA = Schema({"id": Int64(), "value": Int64(), "e": Vector(4, metric="l2")}, "id")
OUTCOMES = (
    ("none", "none", 0),
    ("all", "zeros", 0),
    ("all", "half", 0),
    ("random", "random", 1),
    ("random", "random", 2),
)

# What is written, in order: (what, keys, value). An upsert replaces, a flush makes files.
STEPS = (
    ("upsert", range(0, 40), 1),
    ("upsert", range(30, 60), 2),
    ("delete", range(5, 10), None),
    ("flush", (), None),
    ("upsert", range(50, 70), 3),
    ("delete", range(0, 5), None),
    ("flush", (), None),
    ("delete", range(60, 65), None),
    ("upsert", range(0, 3), 4),
)


class Session:
    """One process: a channel on a store. `possible` is what readers may see, each key to value."""

    def __init__(self, disk, generation):
        self.store = LocalStore("/db", system=disk)
        self.clock = ManualClock()
        self.generation = generation
        self.possible = [{}]

    def run(self, procedure):
        return run(procedure, self.store, self.clock)

    def open(self):
        log = ManifestLog(keys.collection(ID), CollectionState())
        view = self.run(log.read())
        if view.entry_id == 0:
            first = InitCollection(collection_id=ID, schema=SCHEMA, channels=(CHANNEL,))
            self.run(log.commit(view, [first], generation=1, committer="test"))
        self.channel = Channel(
            ID,
            store=self.store,
            run=self.run,
            stamps=TimestampOracle(self.clock),
            mint=lambda: keys.ulid(self.clock.now_ms(), secrets.token_hex(16)),
            flush_bytes=1 << 30,
            committer="test",
            beside=at_once,
        )
        self.channel.refresh()

    def take(self, steps, *, go_on=False):
        for step in steps:
            self.clock.advance(1)
            try:
                self.flush() if step[0] == "flush" else self.write(*step)
            except GpuvecError:
                if not go_on:
                    raise

    def flush(self):
        assert self.channel.flush(self.generation)

    def write(self, what, ids, value):
        before, after = self.possible, [changed(state, ids, value) for state in self.possible]
        self.possible = before + after
        request = WriteRequest(
            collection_id=ID,
            request_id=secrets.token_hex(16),
            operation=what,
            change=delete(ids) if value is None else upsert(ids, value),
        )
        (reply,) = self.channel.write("items", [request], self.generation)
        if isinstance(reply, GpuvecError):
            if reply.details.get("outcome") == "none":
                self.possible = before
            raise reply
        self.possible = after

    def rows(self):
        """Read all rows, as another process would."""
        found = {}
        for segment in self.channel.snapshot("items", self.clock.now_ms()):
            keep = segment.keep()
            table = segment.scalars(["id", "value"])
            ids, values = table["id"].to_numpy(), table["value"].to_numpy()
            vectors = segment.vectors("e").values
            assert np.array_equal(vectors, vectors_of(ids, values))
            for row in np.flatnonzero(np.ones(len(ids), bool) if keep is None else keep):
                assert ids[row] not in found
                found[int(ids[row])] = int(values[row])
        return found


def at_once(work):
    """The model disk is for one thread."""
    work()
    return lambda: None


def changed(state, ids, value):
    kept = {key: old for key, old in state.items() if key not in ids}
    return kept if value is None else {**kept, **dict.fromkeys(ids, value)}


def vectors_of(ids, values):
    return np.stack([ids, values, ids * values, ids], axis=1).astype(np.float32)


def upsert(ids, value):
    ids = np.array(ids)
    table = pa.table({"id": ids, "value": np.full(len(ids), value)}, SCHEMA.arrow_schema())
    rows = Rows(table, {"e": DenseVectors(vectors_of(ids, np.full(len(ids), value)))})
    return InsertRows(rows=rows, schema_version=1, partition="", on_conflict=OnConflict.REPLACE)


def delete(ids):
    return DeleteRows(keys=pa.array(list(ids), pa.int64()))


def run_until(cut_at, **options):
    disk = ModelDisk(cut_at=cut_at, **options)
    session = Session(disk, generation=1)
    try:
        session.open()
        session.take(STEPS)
    except PowerCut:
        return disk, session, True
    return disk, session, False


def check(disk, before, what):
    """Read what is left; then own the channel, write and flush on it, and read again."""
    try:
        after = Session(disk, generation=2)
        after.clock.advance(3600)
        after.open()
        found = after.rows()
        assert found in before.possible
        after.take([("upsert", range(100, 110), 9), ("flush", (), None)])
        assert after.rows() == changed(found, range(100, 110), 9)
    except Exception as error:
        error.add_note(what)
        raise


def cut_and_check(cut_at, outcomes, **options):
    disk, session, was_cut = run_until(cut_at, **options)
    for outcome in outcomes:
        what = f"cut at {cut_at} ({disk.calls[-1]}), {outcome}"
        check(disk.after_power_cut(*outcome), session, what)
    return was_cut


def test_a_channel_without_power_cut_shows_all_writes():
    disk, session, was_cut = run_until(None)
    assert not was_cut
    assert [session.rows()] == session.possible
    assert len(session.rows()) == 40 - 5 + 20 - 5 + 10 - 5 + 3
    check(disk.after_power_cut("none", "none"), session, "at the end")


def test_a_power_cut_at_some_calls_loses_no_acknowledged_row():
    calls = len(run_until(None)[0].calls)
    for cut_at in range(3, calls, 17):
        cut_and_check(cut_at, OUTCOMES[cut_at % 5 : cut_at % 5 + 1])


@pytest.mark.parametrize("call", ["fsync folder", "fsync", "fdatasync"])
def test_a_disk_that_only_claims_to_sync_is_found_out(call):
    """What the store syncs, it has to: without any one kind of sync, acknowledged rows are lost."""
    calls = len(run_until(None, ignored=[call])[0].calls)
    outcomes = (("all", "none", 0), ("none", "all", 0))
    with pytest.raises((AssertionError, GpuvecError)):
        cut_and_check(calls, outcomes, ignored=[call])


@pytest.mark.slow
def test_a_power_cut_at_every_call_loses_no_acknowledged_row():
    for cut_at in itertools.count():
        if not cut_and_check(cut_at, OUTCOMES):
            return


def fail_and_check(number, code, outcomes):
    """Let one call fail, go on, and cut the power at the end."""
    disk = ModelDisk(failures={number: code})
    session = Session(disk, generation=1)
    session.open()
    session.take(STEPS, go_on=True)
    assert session.rows() in session.possible
    for outcome in outcomes:
        what = f"{errno.errorcode[code]} at {number} ({disk.calls[number]}), {outcome}"
        check(disk.after_power_cut(*outcome), session, what)


def test_some_failing_calls_lose_no_acknowledged_row():
    calls = len(run_until(None)[0].calls)
    for number in range(1, calls, 13):
        fail_and_check(number, errno.ENOSPC if number % 2 else errno.EIO, OUTCOMES[:1])


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_every_failing_call_loses_no_acknowledged_row(code):
    for number in range(len(run_until(None)[0].calls)):
        fail_and_check(number, code, OUTCOMES)
