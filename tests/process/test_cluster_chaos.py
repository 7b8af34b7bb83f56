"""A cluster whose processes die, hang and are slow: no wrong answer, no lost row, few errors."""

from time import monotonic as now

import numpy as np
import pytest

from gpuvec.testing.chaos import Chaos
from gpuvec.testing.chaos_model import RowModel, Violation


@pytest.fixture
def model():
    """Ten acknowledged rows; of them, 3 was deleted. 10 to 14 were begun and never answered."""
    made = RowModel()
    first, _ = made.inserting(10)
    made.inserted(first, 10)
    made.deleting(np.array([3]))
    made.deleted(np.array([3]))
    made.inserting(5)
    return made


def nearest(model, query, ids, k):
    far = np.linalg.norm(model.vectors(ids) - query, axis=1)
    order = np.argsort(far)[:k]
    return ids[order], far[order].astype(np.float32)


def test_the_model_takes_any_answer_that_a_version_could_give(model):
    begun, query = now(), np.zeros(16, np.float32)
    sure = np.array([0, 1, 2, 4, 5, 6, 7, 8, 9])
    for more in ([], [10], [10, 11, 12, 13, 14]):
        ids = np.concatenate([sure, np.array(more, np.int64)])
        model.check_ids(ids, begun, now())
        model.check_count(len(ids), begun, now())
        model.check_nearest(query, *nearest(model, query, ids, 4), k=4, begun=begun, ended=now())


def test_the_model_refuses_lost_doubled_and_deleted_rows(model):
    begun = now()
    sure = np.array([0, 1, 2, 4, 5, 6, 7, 8, 9])
    for wrong in (sure[1:], np.append(sure, 0), np.append(sure, 3)):
        with pytest.raises(Violation):
            model.check_ids(wrong, begun, now())
    for wrong in (8, 15):
        with pytest.raises(Violation):
            model.check_count(wrong, begun, now())


def test_the_model_refuses_neighbours_that_are_not_the_nearest(model):
    begun, query = now(), np.zeros(16, np.float32)
    ids, far = nearest(model, query, np.array([0, 1, 2, 4, 5, 6, 7, 8, 9]), 5)
    for mine, told in (
        (ids[1:], far[1:]),  # the nearest is missing
        (ids[:4], far[:4]),  # too few
        (ids, far + 0.1),
        (ids[::-1], far[::-1]),
        (np.append(ids[:4], 3), far),
    ):
        with pytest.raises(Violation):
            model.check_nearest(query, mine, told, k=5, begun=begun, ended=now())


def test_a_row_that_comes_or_goes_during_a_call_may_be_seen_or_not(model):
    begun = now()
    first, _ = model.inserting(1)
    model.inserted(first, 1)
    model.deleting(np.array([0]))
    model.deleted(np.array([0]))
    sure = np.array([1, 2, 4, 5, 6, 7, 8, 9])
    for ids in (sure, np.append(sure, [0, first])):
        model.check_ids(ids, begun, now())
    later = now()
    model.check_ids(np.append(sure, first), later, now())
    with pytest.raises(Violation):
        model.check_ids(sure, later, now())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_cluster_survives_what_happens_to_its_processes(tmp_path):
    found = Chaos(tmp_path, seed=3, workers=4).run(60.0)
    assert found["share of errors"] < 0.001, found
    assert found["calls"]["write"] > 20
    assert found["calls"]["search"] > 20
