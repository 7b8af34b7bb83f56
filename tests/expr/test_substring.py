"""Looking for a text in many: the same answer as Python's `in`, for short columns and long ones."""

import numpy as np
import pyarrow as pa
import pytest

from gpuvec.expr.substring import LEAST_BYTES, contains

WORDS = ["red", "shoe", "", "é", "日本", "a%b", "lamp", "ed", "zz", " "]


def long_column(seed, nulls):
    """Return texts of which the ends of one and the begin of the next make up many words."""
    rng = np.random.default_rng(seed)
    texts = ["".join(rng.choice(WORDS, rng.integers(0, 6))) for _ in range(12_000)]
    return pa.array(texts, mask=rng.random(len(texts)) < 0.1 if nulls else None)


def expected(texts, wanted):
    return [None if text is None else wanted in text for text in texts.to_pylist()]


@pytest.mark.parametrize("nulls", [False, True])
@pytest.mark.parametrize(
    "wanted", ["redshoe", "zzzz", "日本é", "本", "ed", "e", "dred", "nowhere", ""]
)
def test_a_text_is_found_within_texts_never_across_two(nulls, wanted):
    texts = long_column(1, nulls)
    assert len(texts.buffers()[2]) > LEAST_BYTES
    assert contains(texts, wanted).to_pylist() == expected(texts, wanted)


def test_part_of_a_column_is_searched_alone():
    texts = long_column(2, nulls=True)[777:11_001]
    assert contains(texts, "dlamp").to_pylist() == expected(texts, "dlamp")


def test_the_first_and_the_last_bytes_of_a_column_count():
    texts = pa.array(["begin", *["x" * 40] * 2000, "end"])
    assert np.flatnonzero(contains(texts, "begin").to_pylist()).tolist() == [0]
    assert np.flatnonzero(contains(texts, "end").to_pylist()).tolist() == [2001]
    assert not any(contains(texts, "endx").to_pylist())


@pytest.mark.parametrize("texts", [[], [None], [""], ["a"]])
def test_columns_without_bytes_contain_nothing(texts):
    column = pa.array(texts, pa.string())
    assert contains(column, "ab").to_pylist() == expected(column, "ab")
