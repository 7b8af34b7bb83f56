"""Writes that span channels with one rule removed: the simulation must find what breaks."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from gpuvec.errors import GpuvecError
from gpuvec.meta import steps
from gpuvec.node import transaction
from gpuvec.testing import sim_channels
from gpuvec.testing.sim import Violation
from gpuvec.testing.sim_channels import ChannelsSimulation, FlushTask
from gpuvec.wal.log import Group, Mark


@dataclass(frozen=True)
class Mutant:
    """A rule removed.

    Attributes:
        apply: of a monkeypatch; may return the simulation to run.
        start: seed of the first world.
        seeds: worlds that must be enough.
    """

    apply: Callable
    start: int = 0
    seeds: int = 300


# Writing


def commit_before_all_is_prepared(monkeypatch):
    def append_across(logs, parts, ts):
        home, *others = sorted(parts)
        yield from logs[home].append(parts[home], Mark.commit(ts, others) if others else None)
        for channel in others:
            yield from logs[channel].append(parts[channel], Mark.prepared(ts, home))

    monkeypatch.setattr(transaction, "append_across", append_across)


def parts_count_by_themselves(monkeypatch):
    def append_across(logs, parts, ts):
        for channel in sorted(parts):
            yield from logs[channel].append(parts[channel])

    monkeypatch.setattr(transaction, "append_across", append_across)


class EagerOwner(ChannelsSimulation):
    def write(self, batch, claimed, parts, last_ts):
        home, *others = sorted(parts)
        for channel in others:
            yield from claimed.logs[channel].append(parts[channel], Mark.prepared(last_ts, home))
        for request in batch:
            self.acknowledge(request)
        yield from claimed.logs[home].append(
            parts[home], Mark.commit(last_ts, others) if others else None
        )


def acknowledge_before_the_commit(_):
    return EagerOwner


class StubbornOwner(ChannelsSimulation):
    def write(self, batch, claimed, parts, last_ts):
        try:
            yield from transaction.append_across(claimed.logs, parts, last_ts)
        except GpuvecError:
            return
        for request in batch:
            self.acknowledge(request)


def go_on_with_other_channels_after_a_failed_append(_):
    return StubbornOwner


# Flushing


class HastyFlusher(ChannelsSimulation):
    def write(self, batch, claimed, parts, last_ts):
        home, *others = sorted(parts)
        for name in others:
            log = claimed.logs[name]
            before = log.lsn
            yield from log.append(parts[name], Mark.prepared(last_ts, home))
            group = Group(lsn=log.lsn, last_ts=last_ts, records=tuple(parts[name]))
            self.tasks.append(
                FlushTask(
                    name, log.epoch, before, log.lsn, last_ts,
                    tuple(sim_channels._lines({name: (group,)})), log.fences(log.lsn), (),
                )
            )  # fmt: skip
        mark = Mark.commit(last_ts, others) if others else None
        yield from claimed.logs[home].append(parts[home], mark)
        for request in batch:
            self.acknowledge(request)


def flush_prepared_parts_that_are_undecided(_):
    return HastyFlusher


def flushes_forget_commits(monkeypatch):
    flush = sim_channels._flush
    monkeypatch.setattr(sim_channels, "_flush", lambda task: replace(flush(task), commits=()))


def manifest_forgets_commits_at_the_first_flush_of_a_part(monkeypatch):
    def without(channels):
        return {
            name: replace(
                channel,
                commits=tuple(
                    (ts, parts)
                    for ts, parts in channel.commits
                    if all(channels[part].flushed_ts < ts for part in parts)
                ),
            )
            for name, channel in channels.items()
        }

    monkeypatch.setattr(steps, "without_settled_commits", without)


def flushes_forget_how_far_a_channel_was_closed(monkeypatch):
    flush = sim_channels._flush

    def of_writes(task):
        return replace(flush(task), last_ts=max((line[0] for line in task.lines), default=0))

    monkeypatch.setattr(sim_channels, "_flush", of_writes)


# Claiming


def drop_undecided_parts_without_a_record(monkeypatch):
    monkeypatch.setattr(transaction, "undecided_homes", lambda *_: ())


def count_undecided_parts(monkeypatch):
    monkeypatch.setattr(
        transaction.Decisions,
        "counted",
        lambda self, groups: tuple(g for g in groups if self.counts(g) is not False),
    )
    monkeypatch.setattr(transaction, "undecided_homes", lambda *_: ())


def count_all_prepared_parts(monkeypatch):
    monkeypatch.setattr(transaction.Decisions, "counts", lambda *_: True)


def stamp_below_other_channels(monkeypatch):
    class Stamps(sim_channels.Stamps):
        def observe(self, timestamp):
            self.last = max(self.last, timestamp - 1)

    monkeypatch.setattr(sim_channels, "Stamps", Stamps)


def decide_before_fencing(monkeypatch):
    claim = transaction.claim

    def careless(prefix, channel, epoch, position, *, appendable):
        tail = yield from transaction.read_tail(prefix, channel, position, appendable=appendable)
        recovery = yield from claim(prefix, channel, epoch, position, appendable=appendable)
        return replace(recovery, groups=tail.groups)

    monkeypatch.setattr(transaction, "claim", careless)


# Reading


def look_once(monkeypatch):
    look = transaction._Looks.look

    def first(self):
        if not self.__dict__.setdefault("looked", False):
            self.looked = True
            yield from look(self)

    monkeypatch.setattr(transaction._Looks, "look", first)


def read_homes_last(monkeypatch):
    def backwards(self):
        yield from self._sight.read()
        for name in self._sight.channels[::-1]:
            tail = yield from transaction.read_tail(
                self._prefix, name, self._sight.position(name),
                appendable=self._appendable, cursor=self._cursors.get(name),
            )  # fmt: skip
            self._cursors[name] = tail.cursor
            self._found[name] = (*self._found.get(name, ()), *tail.groups)

    monkeypatch.setattr(transaction._Looks, "look", backwards)


def take_all_that_the_second_look_met(monkeypatch):
    up_to = transaction._Looks.up_to
    monkeypatch.setattr(
        transaction._Looks, "up_to", lambda self, newest: up_to(self, max(newest, self.newest))
    )


def take_parts_that_are_undecided(monkeypatch):
    counts = transaction.Decisions.counts
    monkeypatch.setattr(
        transaction.Decisions, "counts", lambda self, group: counts(self, group) is not False
    )
    monkeypatch.setattr(transaction, "undecided_homes", lambda *_: ())


def keep_old_groups_when_files_changed(monkeypatch):
    follow = transaction.follow

    def deceived(prefix, sight, known, *, appendable):
        if known is not None and sight.view is not None:
            yield from sight.read()
            known = replace(known, entry_id=sight.known.entry_id)
        followed, groups = yield from follow(prefix, sight, known, appendable=appendable)
        return followed, groups

    monkeypatch.setattr(transaction, "follow", deceived)


MUTANTS = [
    Mutant(commit_before_all_is_prepared),
    Mutant(parts_count_by_themselves),
    Mutant(acknowledge_before_the_commit),
    Mutant(go_on_with_other_channels_after_a_failed_append),
    Mutant(flush_prepared_parts_that_are_undecided, start=460),
    Mutant(flushes_forget_commits),
    Mutant(manifest_forgets_commits_at_the_first_flush_of_a_part),
    Mutant(flushes_forget_how_far_a_channel_was_closed, start=4900),
    Mutant(drop_undecided_parts_without_a_record, start=480),
    Mutant(count_undecided_parts),
    Mutant(count_all_prepared_parts),
    Mutant(stamp_below_other_channels),
    Mutant(decide_before_fencing, start=330),
    Mutant(look_once),
    Mutant(read_homes_last, start=350),
    Mutant(take_all_that_the_second_look_met, start=180),
    Mutant(take_parts_that_are_undecided),
    Mutant(keep_old_groups_when_files_changed),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.apply.__name__)
def test_a_world_without_this_rule_breaks_a_promise(mutant: Mutant, monkeypatch):
    kind = mutant.apply(monkeypatch) or ChannelsSimulation
    for seed in range(mutant.start, mutant.start + mutant.seeds):
        try:
            kind(seed, seed % 2 == 0).run()
        except Violation as violation:
            print(f"{mutant.apply.__name__}: {violation}")
            return
    pytest.fail(f"{mutant.apply.__name__}: not missed in {mutant.seeds} worlds")
