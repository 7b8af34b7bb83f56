"""Compaction in a world where anything may fail, and what finds a rule that is missing."""

from dataclasses import replace

import pytest

from gpuvec.meta import collect, steps, steps_compaction
from gpuvec.meta.changes import MarkDead
from gpuvec.meta.changes_compaction import ForgetDead, ReplaceSegments
from gpuvec.testing import sim_log
from gpuvec.testing.sim import Violation
from gpuvec.testing.sim_compaction import CompactionSimulation


def simulate(seed):
    world = CompactionSimulation(seed, appendable=seed % 2 == 0)
    world.run()
    return world


def test_the_worlds_replace_many_segments():
    worlds = [simulate(seed) for seed in range(20)]
    assert sum(len(world.replaced) for world in worlds) > len(worlds)


def test_no_promise_is_broken_in_a_hundred_and_fifty_worlds_with_compaction():
    for seed in range(150):
        simulate(seed)


@pytest.mark.slow
def test_no_promise_is_broken_in_three_thousand_worlds_with_compaction():
    for seed in range(150, 3150):
        simulate(seed)


def replace_with(monkeypatch, changed):
    """Let `changed` make another state and change of those that the real step gets."""
    honest = steps_compaction._replace_segments
    monkeypatch.setitem(
        steps.STEPS, ReplaceSegments, lambda state, change: honest(*changed(state, change))
    )


def ignore_deletes_that_came_meanwhile(monkeypatch):
    def changed(state, change):
        seen = {
            name: state.segments[name].deletes and state.segments[name].deletes["key"]
            for name in change.inputs
            if name in state.segments
        }
        return state, replace(change, inputs={**change.inputs, **seen})

    replace_with(monkeypatch, changed)


def replace_what_is_gone(monkeypatch):
    def changed(state, change):
        there = {name: key for name, key in change.inputs.items() if name in state.segments}
        return state, replace(change, inputs=there)

    def adding(state, change):
        _, change = changed(state, change)
        segments = {n: s for n, s in state.segments.items() if n not in change.inputs}
        segments.update((output.segment_id, output) for output in change.outputs)
        return {"segments": segments}

    monkeypatch.setitem(steps.STEPS, ReplaceSegments, adding)


def name_dead_files(monkeypatch):
    replace_with(monkeypatch, lambda state, change: (replace(state, dead={}), change))


def mark_files_in_use(monkeypatch):
    monkeypatch.setitem(
        steps.STEPS,
        MarkDead,
        lambda state, change: {"dead": {**state.dead, **dict.fromkeys(change.ids, 0)}},
    )


def forget_dead_at_once(monkeypatch):
    honest = collect.collect_orphans

    def forgetting(log, view, prefix, **options):
        view, collected = yield from honest(log, view, prefix, **options)
        ids = tuple(view.state.dead)
        if ids:
            signed = {"generation": options["generation"], "committer": options["committer"]}
            view = yield from log.commit(view, [ForgetDead(ids=ids)], **signed)
        return view, collected

    monkeypatch.setattr(sim_log, "collect_orphans", forgetting)


def leave_rows_out_of_the_output(monkeypatch):
    honest = CompactionSimulation._rewrite

    def forgetful(self, chosen):
        change = yield from honest(self, chosen)
        return replace(change, outputs=()) if len(chosen) > 1 else change

    monkeypatch.setattr(CompactionSimulation, "_rewrite", forgetful)


@pytest.mark.parametrize(
    "mutant",
    [
        ignore_deletes_that_came_meanwhile,
        replace_what_is_gone,
        name_dead_files,
        mark_files_in_use,
        forget_dead_at_once,
        leave_rows_out_of_the_output,
    ],
)
def test_a_missing_rule_is_found(monkeypatch, mutant):
    mutant(monkeypatch)
    found = next((seed for seed in range(1000) if breaks(seed)), None)
    assert found is not None
    print(f"{mutant.__name__}: seed {found}")


def breaks(seed):
    try:
        simulate(seed)
    except Violation:
        return True
    return False
