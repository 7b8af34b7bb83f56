"""The storage protocol with one rule removed: the simulation must find what breaks."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from gpuvec.errors import StorageError
from gpuvec.meta import changes, steps
from gpuvec.meta.manifest import ManifestLog
from gpuvec.storage import keys
from gpuvec.storage.object_store import Append, Delete, List, Nonce, PutIfAbsent, Size
from gpuvec.testing import sim_log
from gpuvec.testing.sim import Violation
from gpuvec.testing.sim_log import LogSimulation
from gpuvec.wal import file_log, files, slots
from gpuvec.wal.channel import Recovery, check_order, group_of
from gpuvec.wal.frame import FrameKind, encode_frame
from gpuvec.wal.record import encode_records
from tests.sim.owners import ClosingSimulation


@dataclass(frozen=True)
class Mutant:
    """A rule removed.

    Attributes:
        apply: of a monkeypatch; may return the simulation to run.
        start: seed of the first world, not far before one that found it when this was written.
        seeds: worlds that must be enough.
        rare: needs many worlds; runs among the slow tests.
    """

    name: str
    appendable: bool
    apply: Callable
    start: int = 0
    seeds: int = 400
    rare: bool = False


def nothing(*args, **kwargs):
    return None
    yield


def zero(*args, **kwargs):
    return 0
    yield


# Acknowledging


class EagerOwner(LogSimulation):
    def write(self, wal, records):
        for record in records:
            self.acknowledge(record.request_id)
        return (yield from wal.append(records))


def acknowledge_before_durable(_):
    return EagerOwner


def append_without_reading_back(monkeypatch):
    def append(self, records):
        first_ts, last_ts = check_order(records, self._last_ts)
        lsn, created = self._lsn, False
        while not created:
            lsn += 1
            data = encode_frame(
                FrameKind.GROUP,
                encode_records(records),
                epoch=self._epoch,
                lsn=lsn,
                nonce=(yield Nonce()),
                first_ts=first_ts,
                last_ts=last_ts,
            )
            try:
                created = yield PutIfAbsent(keys.wal_slot(self._channel.folder, lsn), data)
            except StorageError:
                created = False
        self._lsn, self._last_ts = lsn, last_ts
        return lsn

    monkeypatch.setattr(slots.SlotLog, "append", append)


def append_again_to_a_failed_file(monkeypatch):
    def begin_again(self, frame, cause):
        data = frame(self._lsn + 1)
        yield Append(keys.wal_file(self._channel.folder, *self._file), data)
        self._lsn += 1
        self._end += len(data)

    monkeypatch.setattr(file_log.FileLog, "_begin_again", begin_again)


def count_groups_written_twice(monkeypatch):
    def fresh_groups(frames, after, last_ts):
        groups = [f for f in frames if f.kind is FrameKind.GROUP and f.lsn > after]
        return tuple(group_of(f) for f in groups), max([last_ts, *(f.last_ts for f in frames)])

    monkeypatch.setattr(files, "_fresh_groups", fresh_groups)


# Claiming


def no_fence_check_after_append(monkeypatch):
    monkeypatch.setattr(file_log.FileLog, "_check_fence", nothing)


def no_fence_file(monkeypatch):
    create = file_log.create

    def create_all_but_fences(key, data):
        if keys.parse_wal_file(key)[1]:
            return (yield from create(key, data))
        return None

    monkeypatch.setattr(file_log, "create", create_all_but_fences)


def read_before_fencing(monkeypatch):
    read, before = files.read_chain, {}

    def remember(channel, names, at, cursor):
        if cursor is None or cursor not in before:
            chain = yield from read(channel, names, at, cursor)
            before[chain.cursor] = chain
            return chain
        return replace(before[cursor], groups=())

    monkeypatch.setattr(files, "read_chain", remember)
    monkeypatch.setattr(file_log, "read_chain", remember)


def no_fence_slot(monkeypatch):
    def claim(channel, epoch, position):
        at = yield from position()
        last = yield from slots._last_slot(channel, at.flushed_lsn)
        frames = yield from slots._read(channel, at.flushed_lsn, last)
        log = slots.SlotLog.__new__(slots.SlotLog)
        log._channel, log._epoch, log._lsn, log._fences = channel, epoch, last, ()
        log._last_ts = max((f.last_ts for f in frames), default=0)
        log._closed = False
        return Recovery(log=log, groups=tuple(map(group_of, frames)))

    monkeypatch.setattr(slots, "claim", claim)


def fence_after_any_slot(monkeypatch):
    def fence(channel, epoch, at):
        lsn = (yield from slots._last_slot(channel, at.flushed_lsn)) + 1
        nonce = yield Nonce()
        data = encode_frame(FrameKind.FENCE, [], epoch=epoch, lsn=lsn, nonce=nonce)
        while (yield from slots.create(keys.wal_slot(channel.folder, lsn), data)) is not None:
            lsn += 1
            data = encode_frame(FrameKind.FENCE, [], epoch=epoch, lsn=lsn, nonce=nonce)
        return lsn

    monkeypatch.setattr(slots, "_fence", fence)


def old_epoch_may_claim(monkeypatch):
    claim = sim_log.claim

    def deceived(prefix, channel, epoch, position, *, appendable):
        def lie():
            return replace((yield from position()), epoch=epoch)

        return claim(prefix, channel, epoch, lie, appendable=appendable)

    monkeypatch.setattr(sim_log, "claim", deceived)


def truncate_fences_too(monkeypatch):
    truncate = slots.SlotLog.truncate
    monkeypatch.setattr(
        slots.SlotLog, "truncate", lambda self, lsn, fences: truncate(self, lsn, ())
    )


# Reading


def trust_what_is_not_synced(monkeypatch):
    monkeypatch.setattr(files, "Sync", Size)
    monkeypatch.setattr(file_log, "Sync", Size)


def ignore_fences_when_reading(monkeypatch):
    def intact(*_):
        return 1 << 60
        yield

    monkeypatch.setattr(files, "_intact", intact)


def note_an_end_that_is_not_durable(monkeypatch):
    hint = file_log.FileLog._hint

    def eager(log):
        log._end += 16
        yield from hint(log)
        log._end -= 16

    monkeypatch.setattr(file_log.FileLog, "_hint", eager)
    return ClosingSimulation


# Manifest


def no_mark_check_after_commit(monkeypatch):
    monkeypatch.setattr(ManifestLog, "_surely_mark", zero)


def no_mark_check_after_reading(monkeypatch):
    monkeypatch.setattr(ManifestLog, "_mark", zero)


def collect_without_checkpoint(monkeypatch):
    monkeypatch.setattr(ManifestLog, "checkpoint", nothing)


def flush_unconditionally(monkeypatch):
    flush = steps.STEPS[changes.Flush]

    def unguarded(state, change):
        channel = state.channels[change.channel]
        return flush(state, replace(change, epoch=channel.epoch, from_lsn=channel.flushed_lsn))

    monkeypatch.setitem(steps.STEPS, changes.Flush, unguarded)


def flush_dead_files(monkeypatch):
    flush = steps.STEPS[changes.Flush]
    monkeypatch.setitem(
        steps.STEPS,
        changes.Flush,
        lambda state, change: flush(replace(state, dead={}), change),
    )


def mark_files_in_use(monkeypatch):
    monkeypatch.setitem(
        steps.STEPS,
        changes.MarkDead,
        lambda state, change: {"dead": {**state.dead, **dict.fromkeys(change.ids, 0)}},
    )


def collect_without_tombstone(monkeypatch):
    def collect_orphans(log, view, prefix, **_):
        listed = yield List(f"{keys.segments_folder(prefix)}/")
        view = yield from log.read(view)
        yield Delete([k for k in listed if keys.parse_segment(k) not in view.state.segments])
        return view, None

    monkeypatch.setattr(sim_log, "collect_orphans", collect_orphans)


FILES, SLOTS = True, False
MUTANTS = [
    Mutant("acknowledge_before_durable", FILES, acknowledge_before_durable),
    Mutant("acknowledge_before_durable", SLOTS, acknowledge_before_durable),
    Mutant("append_without_reading_back", SLOTS, append_without_reading_back),
    Mutant("append_again_to_a_failed_file", FILES, append_again_to_a_failed_file),
    Mutant("count_groups_written_twice", FILES, count_groups_written_twice, 20, 3000, rare=True),
    Mutant("no_fence_check_after_append", FILES, no_fence_check_after_append),
    Mutant("no_fence_file", FILES, no_fence_file),
    Mutant("read_before_fencing", FILES, read_before_fencing),
    Mutant("no_fence_slot", SLOTS, no_fence_slot),
    Mutant("fence_after_any_slot", SLOTS, fence_after_any_slot),
    Mutant("old_epoch_may_claim", SLOTS, old_epoch_may_claim, 515, 5000, rare=True),
    Mutant("truncate_fences_too", SLOTS, truncate_fences_too, start=620),
    Mutant("trust_what_is_not_synced", FILES, trust_what_is_not_synced),
    Mutant("ignore_fences_when_reading", FILES, ignore_fences_when_reading, 800, 3000, rare=True),
    Mutant("note_an_end_that_is_not_durable", FILES, note_an_end_that_is_not_durable),
    Mutant("no_mark_check_after_commit", FILES, no_mark_check_after_commit, start=125),
    Mutant("no_mark_check_after_reading", FILES, no_mark_check_after_reading, start=10),
    Mutant("collect_without_checkpoint", FILES, collect_without_checkpoint),
    Mutant("flush_unconditionally", FILES, flush_unconditionally),
    Mutant("flush_unconditionally", SLOTS, flush_unconditionally),
    Mutant("flush_dead_files", FILES, flush_dead_files, start=1130),
    Mutant("mark_files_in_use", FILES, mark_files_in_use, start=50),
    Mutant("collect_without_tombstone", FILES, collect_without_tombstone),
]


def parameter(mutant: Mutant):
    medium = "files" if mutant.appendable else "slots"
    marks = [pytest.mark.slow] if mutant.rare else []
    return pytest.param(mutant, id=f"{mutant.name}-{medium}", marks=marks)


@pytest.mark.parametrize("mutant", [parameter(mutant) for mutant in MUTANTS])
def test_a_world_without_this_rule_breaks_a_promise(mutant: Mutant, monkeypatch):
    kind = mutant.apply(monkeypatch) or LogSimulation
    for seed in range(mutant.start, mutant.start + mutant.seeds):
        try:
            kind(seed, mutant.appendable).run()
        except Violation as violation:
            print(f"{mutant.name}: {violation}")
            return
    pytest.fail(f"{mutant.name}: not missed in {mutant.seeds} worlds")
