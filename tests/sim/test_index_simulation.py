"""Indexes in a world where anything may fail, and what finds a rule that is missing."""

import pytest

from gpuvec.meta import catalog, changes, collect, steps
from gpuvec.testing.sim import Violation
from gpuvec.testing.sim_indexes import IndexSimulation


def simulate(seed):
    world = IndexSimulation(seed, appendable=seed % 2 == 0)
    world.run()
    return world


def test_the_worlds_build_and_drop_much():
    worlds = [simulate(seed) for seed in range(20)]
    assert sum(len(world.built) for world in worlds) > len(worlds) / 2


def test_no_promise_is_broken_in_three_hundred_worlds_with_indexes():
    for seed in range(300):
        simulate(seed)


@pytest.mark.slow
def test_no_promise_is_broken_in_three_thousand_worlds_with_indexes():
    for seed in range(300, 3300):
        simulate(seed)


def add_whatever_is_dead(monkeypatch):
    def forgetful(state, change):
        return steps._add_index(catalog.replace(state, dead={}), change)

    monkeypatch.setitem(steps.STEPS, changes.AddIndex, forgetful)


def add_whatever_is_wanted(monkeypatch):
    def careless(state, change):
        definition = state.indexes.get(change.record.field)
        if definition is not None:
            record = catalog.replace(change.record, definition_id=definition.index_id)
            change = catalog.replace(change, record=record)
        return steps._add_index(state, change)

    monkeypatch.setitem(steps.STEPS, changes.AddIndex, careless)


def keep_the_former_index(monkeypatch):
    def keeping(state, change):
        return {"indexes": {**state.indexes, change.definition.field: change.definition}}

    monkeypatch.setitem(steps.STEPS, changes.SetIndex, keeping)


def collect_files_in_use(monkeypatch):
    def segment_alone(segment):
        return catalog.file_ulids(catalog.replace(segment, indexes={}))

    monkeypatch.setattr(collect, "file_ulids", segment_alone)
    monkeypatch.setitem(
        steps.STEPS,
        changes.MarkDead,
        lambda state, change: {"dead": {**state.dead, **dict.fromkeys(change.ids, 0)}},
    )


@pytest.mark.parametrize(
    "mutant",
    [add_whatever_is_dead, add_whatever_is_wanted, keep_the_former_index, collect_files_in_use],
)
def test_a_missing_rule_is_found(monkeypatch, mutant):
    mutant(monkeypatch)
    assert any(breaks(seed) for seed in range(1000))


def breaks(seed):
    try:
        simulate(seed)
    except Violation:
        return True
    return False
