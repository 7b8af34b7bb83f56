"""Errors cross processes as what they are."""

import inspect
import pickle

import pytest

from gpuvec import errors

CLASSES = sorted(
    {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.GpuvecError)
    },
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_pickles_with_all_that_it_tells(kind):
    error = kind("GV-999", "wanted x, got y", hint="do z", details={"x": 1, "outcome": "none"})
    found = pickle.loads(pickle.dumps(error, protocol=5))
    assert type(found) is kind
    assert vars(found) == vars(error)
    assert str(found) == str(error)
