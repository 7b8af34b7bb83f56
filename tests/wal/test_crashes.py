"""Log and manifest together, where each call in turn fails, kills the process or loses power."""

import itertools
from contextlib import suppress

import pytest

from gpuvec.clock import ManualClock
from gpuvec.errors import StorageError, UnavailableError
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes import Flush, InitCollection, SetEpoch, WriteSummary
from gpuvec.meta.manifest import ManifestLog
from gpuvec.schema import Int64, Schema
from gpuvec.storage import keys
from gpuvec.storage.local import LocalStore
from gpuvec.storage.memory import MemoryStore
from gpuvec.storage.object_store import run
from gpuvec.testing.disk import ModelDisk, PowerCut
from gpuvec.testing.faults import Crash, Fault, FaultStore
from gpuvec.wal.log import ChannelPosition, claim, read_tail
from gpuvec.wal.record import WriteRecord

ROOT, PREFIX, CHANNEL = "/home/db", keys.collection("c-1"), "s000"
OUTCOMES = [
    ("all", "none", 0),
    ("none", "none", 0),
    ("all", "half", 0),
    ("all", "zeros", 0),
    *(("random", "random", seed) for seed in range(4)),
]


class Engine:
    """An owner of one channel that notes what it acknowledged."""

    def __init__(self, store, acknowledged):
        self.store, self.clock = store, ManualClock()
        self.manifest = ManifestLog(PREFIX, CollectionState(), checkpoint_every=2)
        self.acknowledged = acknowledged
        self.view = self.run(self.manifest.read())

    def run(self, procedure):
        return run(procedure, self.store, self.clock)

    def commit(self, *changes):
        self.view = self.run(
            self.manifest.commit(self.view, changes, generation=1, committer="test")
        )

    def position(self):
        self.view = yield from self.manifest.read(self.view)
        channel = self.view.state.channels[CHANNEL]
        return ChannelPosition(epoch=channel.epoch, flushed_lsn=channel.flushed_lsn)

    def open(self):
        if not self.view.state.collection_id:
            schema = Schema({"id": Int64()}, "id")
            self.commit(InitCollection(collection_id="c-1", schema=schema, channels=(CHANNEL,)))
        epoch = self.view.state.channels[CHANNEL].epoch + 1
        self.commit(SetEpoch(channel=CHANNEL, epoch=epoch))
        recovery = self.run(
            claim(PREFIX, CHANNEL, epoch, self.position, appendable=self.store.appendable)
        )
        self.log, self.groups = recovery.log, list(recovery.groups)
        self.flushed = [write.ts for write in self.view.state.history]
        return self.flushed + [r.ts for group in self.groups for r in group.records]

    def append(self, ts):
        record = WriteRecord(ts=ts, request_id=f"r{ts}", operation="insert")
        self.run(self.log.append([record]))
        self.acknowledged.append(ts)

    def flush(self):
        tail = self.run(read_tail(PREFIX, CHANNEL, self.position, appendable=self.store.appendable))
        written = tuple(
            WriteSummary(
                ts=record.ts,
                request_id=record.request_id,
                operation="insert",
                inserted=1,
                updated=0,
                deleted=0,
                size_bytes=0,
            )
            for group in tail.groups
            for record in group.records
        )
        channel = self.view.state.channels[CHANNEL]
        to_lsn = tail.groups[-1].lsn
        self.commit(
            Flush(
                channel=CHANNEL,
                epoch=channel.epoch,
                from_lsn=channel.flushed_lsn,
                to_lsn=to_lsn,
                fences=self.log.fences(to_lsn),
                last_ts=written[-1].ts,
                writes=written,
            )
        )
        self.run(self.log.truncate(to_lsn, self.view.state.channels[CHANNEL].fences))


def live(store, acknowledged):
    engine = Engine(store, acknowledged)
    engine.open()
    engine.append(1)
    engine.append(2)
    engine.flush()
    engine.append(3)
    second = Engine(store, acknowledged)
    second.open()
    second.append(4)
    second.flush()


def check(store, acknowledged, where):
    """Recover twice: what was acknowledged is there, nothing else but a write under way."""
    for _ in range(2):
        found = Engine(store, []).open()
        assert found[: len(acknowledged)] == acknowledged, where
        assert found == [1, 2, 3, 4][: len(found)], where
        assert len(found) <= len(acknowledged) + 1, where


def cut_power(cut_ats, outcomes):
    for cut_at in cut_ats:
        disk, acknowledged = ModelDisk(cut_at=cut_at, write_bytes=1 << 20), []
        was_cut = False
        try:
            live(LocalStore(ROOT, system=disk), acknowledged)
        except PowerCut:
            was_cut = True
        for outcome in outcomes:
            later = LocalStore(ROOT, system=disk.after_power_cut(*outcome))
            check(later, acknowledged, (cut_at, outcome))
        if not was_cut:
            return


@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.name.lower())
@pytest.mark.parametrize("appendable", [True, False], ids=["files", "slots"])
def test_no_acknowledged_write_is_lost_when_an_operation_fails(appendable, fault):
    for number in itertools.count():
        inner, acknowledged = MemoryStore(appendable=appendable), []
        store = FaultStore(inner, {number: fault})
        with suppress(StorageError, UnavailableError, Crash):
            live(store, acknowledged)
        check(inner, acknowledged, store.operations[number:][:1])
        if number >= len(store.operations):
            return


def test_no_acknowledged_write_is_lost_in_a_power_cut():
    cut_power([*range(0, 400, 9), 10_000], OUTCOMES[:3])


@pytest.mark.slow
def test_no_acknowledged_write_is_lost_in_a_power_cut_at_any_call():
    cut_power(itertools.count(), OUTCOMES)
