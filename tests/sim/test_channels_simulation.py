"""Writes that span channels in a world where anything may fail, stall, die or lose power."""

import pytest

from gpuvec.testing.sim_channels import ChannelsSimulation


def simulate(seed: int, *, appendable: bool) -> ChannelsSimulation:
    world = ChannelsSimulation(seed, appendable)
    world.run()
    return world


@pytest.mark.parametrize("appendable", [True, False], ids=["files", "slots"])
def test_the_worlds_acknowledge_writes_that_span_channels(appendable):
    worlds = [simulate(seed, appendable=appendable) for seed in range(20)]
    spanning = sum(len(w.requests[name]) > 1 for w in worlds for name in w.acknowledged)
    assert spanning > 3 * len(worlds)
    assert sum(len(world.reads) for world in worlds) > 4 * len(worlds)


def test_no_write_is_half_visible_in_four_hundred_worlds():
    for seed in range(400):
        simulate(seed, appendable=seed % 2 == 0)


@pytest.mark.slow
@pytest.mark.parametrize("thousand", range(1, 6))
def test_no_write_is_half_visible_in_thousands_of_worlds(thousand):
    for seed in range(1000 * thousand, 1000 * (thousand + 1)):
        simulate(seed, appendable=seed % 2 == 0)


def test_the_same_seed_gives_the_same_world():
    one, two = (simulate(7, appendable=True) for _ in range(2))
    assert one.reads == two.reads
    assert one.world.store.objects == two.world.store.objects
