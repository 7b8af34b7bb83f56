"""A cluster in a world where processes die, stand still and are cut off, and messages go astray."""

import pytest

from gpuvec.testing.sim_cluster import ClusterSimulation


def simulate(seed: int) -> ClusterSimulation:
    world = ClusterSimulation(seed)
    world.run()
    return world


def test_the_worlds_are_busy_and_full_of_faults():
    worlds = [simulate(seed) for seed in range(25)]
    assert sum(len(found) for w in worlds for found in w.acknowledged.values()) > 30 * len(worlds)
    assert sum(world.reads for world in worlds) > 30 * len(worlds)
    assert sum(world.owners_named > 2 for world in worlds) > len(worlds) / 3
    assert sum(world.coordinator.generation > 1 for world in worlds) > len(worlds) / 5


def test_reads_are_strong_and_writes_kept_in_a_hundred_worlds():
    for seed in range(25, 125):
        simulate(seed)


@pytest.mark.slow
@pytest.mark.parametrize("thousand", range(1, 11))
def test_reads_are_strong_and_writes_kept_in_thousands_of_worlds(thousand):
    for seed in range(1000 * thousand, 1000 * (thousand + 1)):
        simulate(seed)


def test_the_same_seed_gives_the_same_world():
    one, two = (simulate(7) for _ in range(2))
    assert one.acknowledged == two.acknowledged
    assert one.reads == two.reads
    assert one.store.shelves["x"].look() == two.store.shelves["x"].look()
