"""Answers that are kept: found again for the same question about the same version, never else."""

import random
from dataclasses import dataclass

import numpy as np
import pytest

from gpuvec.data_messages import ReadPart, Stale
from gpuvec.proxy.result_cache import ResultCache
from gpuvec.query.spread import Answered, Replan
from gpuvec.settings import config
from gpuvec.types import NodeId
from tests.proxy.nodes import FakeCluster, plan, segment


@dataclass(frozen=True)
class Near:
    """A question with an array."""

    queries: np.ndarray
    k: int

    def only(self, segments, *, growing):
        return self


def answer(size):
    return [Answered(node=NodeId("a"), segments=(), growing=False, answer=np.zeros(size, np.int8))]


def asked(cluster):
    return sum(cluster.network.calls_to(node, ReadPart) for node in cluster.nodes)


def test_without_a_budget_every_question_is_asked():
    cluster = FakeCluster("ab")
    cluster.ask()
    cluster.ask()
    assert asked(cluster) == 4


def test_the_same_question_about_the_same_plan_is_asked_once():
    cluster = FakeCluster("ab")
    with config.set(cluster__result_cache_bytes=1 << 20):
        first = cluster.ask()
        assert cluster.ask() == first
        assert asked(cluster) == 2
        cluster.ask(segments=[segment(1)], growing=False)
        assert asked(cluster) == 3


@pytest.mark.parametrize(
    "change", [{"version": 101}, {"entry_id": 2}, {"now_ms": 5}], ids=lambda each: next(iter(each))
)
def test_another_version_is_another_question(change):
    cache = ResultCache(lambda: 1 << 20)
    question = Near(np.arange(6.0), 3)
    before = plan(2)
    cache.answers(before, question, [None], lambda: answer(1))
    after = type(before)(**{name: getattr(before, name) for name in before.__slots__} | change)
    found = cache.answers(after, question, [None], lambda: answer(2))
    assert len(found[0].answer) == 2


def test_questions_differ_by_any_byte_of_their_arrays():
    cache = ResultCache(lambda: 1 << 20)
    queries = np.arange(100_000, dtype=np.float32)
    cache.answers(plan(2), Near(queries, 3), [None], lambda: answer(1))
    other = queries.copy()
    other[77_777] += 0.25
    assert len(cache.answers(plan(2), Near(other, 3), [None], lambda: answer(2))[0].answer) == 2
    assert len(cache.answers(plan(2), Near(queries, 4), [None], lambda: answer(3))[0].answer) == 3
    same = cache.answers(plan(2), Near(queries.copy(), 3), [None], lambda: answer(4))
    assert len(same[0].answer) == 1


def test_the_budget_is_kept_and_what_was_used_last_stays():
    cache = ResultCache(lambda: 100_000)
    for number in range(40):
        cache.answers(plan(2, version=number), Near(np.zeros(1), 1), [None], lambda: answer(9_000))
        cache.answers(plan(2, version=0), Near(np.zeros(1), 1), [None], lambda: answer(1))
        assert cache.size_bytes <= 100_000
    first = cache.answers(plan(2, version=0), Near(np.zeros(1), 1), [None], lambda: answer(2))
    assert len(first[0].answer) == 9_000
    cache.answers(plan(2, version=99), Near(np.zeros(1), 1), [None], lambda: answer(50_000))
    again = cache.answers(plan(2, version=99), Near(np.zeros(1), 1), [None], lambda: answer(7))
    assert len(again[0].answer) == 7  # too large to keep


@pytest.mark.parametrize("knows", [1, 2])
def test_a_node_that_does_not_stand_by_an_answer_makes_it_forgotten(knows):
    cluster = FakeCluster("ab")
    with config.set(cluster__result_cache_bytes=1 << 20):
        cluster.ask()
        for node in cluster.nodes.values():
            node.stale = Stale(entry_id=knows)
        with pytest.raises(Replan):
            cluster.ask(segments=[segment(0)], growing=False)  # a later step of the read
        with pytest.raises(Replan):
            cluster.ask()


@pytest.mark.parametrize("seed", range(10))
def test_an_answer_is_never_that_of_another_version(seed):
    """Random writes between random questions; nodes answer with the version they were asked for."""
    rng = random.Random(seed)
    cache = ResultCache(lambda: 4_000)
    version = 1
    for _ in range(400):
        if rng.random() < 0.3:
            version += 1
        at = plan(3, version=rng.choice([version, max(1, version - 1)]))
        question = Near(np.full(4, rng.randrange(3), np.float32), rng.randrange(1, 3))
        units = rng.choice([[None], [segment(0)], [segment(0), None]])
        truth = (at.version, question.queries[0], question.k, tuple(units))
        told = [Answered(node=NodeId("a"), segments=(), growing=False, answer=truth)]
        found = cache.answers(at, question, units, lambda told=told: told)
        assert found[0].answer == truth
