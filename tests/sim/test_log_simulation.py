"""The storage protocol in a world where anything may fail, stall, die or lose power."""

import pytest

from gpuvec.testing.sim_log import LogSimulation
from tests.sim.owners import ClosingSimulation


def simulate(seed: int, *, appendable: bool, kind: type[LogSimulation] = LogSimulation):
    world = kind(seed, appendable)
    world.run()
    return world


@pytest.mark.parametrize("appendable", [True, False], ids=["files", "slots"])
def test_the_worlds_acknowledge_much(appendable):
    worlds = [simulate(seed, appendable=appendable) for seed in range(10)]
    assert sum(len(world.acknowledged) for world in worlds) > 10 * len(worlds)


@pytest.mark.parametrize("thousand", [0, 1])
def test_no_promise_is_broken_in_two_thousand_worlds(thousand):
    for seed in range(1000 * thousand, 1000 * (thousand + 1)):
        simulate(seed, appendable=seed % 2 == 0)


def test_no_promise_is_broken_where_owners_note_the_ends_of_their_logs():
    for seed in range(400):
        simulate(seed, appendable=True, kind=ClosingSimulation)


def test_the_same_seed_gives_the_same_world():
    one, two = (simulate(7, appendable=True) for _ in range(2))
    assert one.reads == two.reads
    assert one.world.store.objects == two.world.store.objects
