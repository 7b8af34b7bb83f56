"""What reads on a cluster see of writes, by level; and that kept answers are never old ones."""

import time

import numpy as np
import pytest

import gpuvec as gv
from gpuvec import telemetry

STALE_S = 1.0


def rows(*ids):
    vectors = np.random.default_rng(list(ids)).random((len(ids), 4), np.float32)
    return {"id": list(ids), "v": vectors}


@pytest.fixture
def two(open_client):
    """A collection of ten rows, as two clients have it."""
    items = open_client().create_collection(
        "items", gv.Schema({"id": gv.Int64(), "v": gv.Vector(4)}, primary_key="id")
    )
    items.insert(rows(*range(10)))
    return items, open_client()["items"]


def test_a_strong_read_sees_every_acknowledged_write_of_others(two):
    writer, reader = two
    for number in range(10, 30):
        writer.insert(rows(number))
        assert reader.count() == number + 1


@pytest.mark.parametrize("level", ["strong", "bounded", "session"])
def test_a_client_sees_its_own_writes(two, level):
    items, _ = two
    with gv.config.set(consistency=level, staleness_s=60.0):
        for number in range(10, 20):
            items.insert(rows(number))
            assert items.count() == number + 1
        items.delete(ids=[3])
        assert items.count() == 19


def test_a_bounded_read_is_as_old_as_it_may_be_and_no_older(two):
    writer, reader = two
    with gv.config.set(consistency="bounded", staleness_s=STALE_S):
        begun = time.monotonic()
        assert reader.count() == 10
        writer.insert(rows(10))
        found = reader.count()
        if time.monotonic() - begun < STALE_S:  # else the machine was asleep
            assert found == 10
        time.sleep(STALE_S)
        assert reader.count() == 11


@pytest.mark.parametrize("level", ["session", "eventually"])
def test_reads_of_any_level_come_to_see_what_others_wrote(two, level):
    writer, reader = two
    with gv.config.set(consistency=level):
        reader.count()
        writer.insert(rows(10))
        until = time.monotonic() + 20
        while reader.count() != 11:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_reads_of_one_client_never_go_back(two):
    writer, reader = two
    with gv.config.set(consistency="session"):
        newest = 0
        for number in range(10, 25):
            writer.insert(rows(number))
            found = reader.count()
            assert found >= newest
            newest = found


def calls(reader):
    """Return how many calls this client made of nodes."""
    return sum(node.calls for node in reader._source.engine.router.figures())


@pytest.mark.parametrize("flushed", [False, True])
def test_a_read_of_what_did_not_change_asks_each_node_once(two, flushed):
    writer, reader = two
    if flushed:
        writer.flush()
    query = np.zeros((1, 4), np.float32)
    for _ in range(3):  # until routes are known, and the plan is seen to stay
        reader.count()
    for read in (reader.count, reader.select("id").search(query, k=2).collect):
        before = calls(reader)
        read()
        assert calls(reader) - before <= 1 + flushed  # the owner, and who has the segment
        assert calls(reader) > before


@pytest.mark.parametrize("seed", range(3))
def test_kept_answers_are_those_that_nodes_would_give(two, seed):
    writer, reader = two
    rng = np.random.default_rng(seed)
    queries = rng.random((2, 4), np.float32)
    known, hits = 10, telemetry.CACHE_HITS.value("results")

    def ask(items):
        found = items.filter("id >= 2").search(queries, k=3, exact=True).to_arrow()
        return found, items.count(), items.filter("id < 7").count()

    for _ in range(12):
        if rng.random() < 0.4:
            writer.insert(rows(known))
            known += 1
        elif rng.random() < 0.3:
            writer.delete(ids=[int(rng.integers(known))])
        elif rng.random() < 0.3:
            writer.flush()
        with gv.config.set(cluster__result_cache_bytes=1 << 20):
            kept = ask(reader)
        assert kept == ask(reader)
    assert telemetry.CACHE_HITS.value("results") > hits
