"""Looking up primary keys."""

import numpy as np
import pyarrow as pa
import pytest

from gpuvec.segment.keys import KeyIndex, key_codes, sort_by_key


def as_keys(numbers, kind):
    if kind == "int64":
        return pa.array(numbers, pa.int64())
    return pa.array([f"né-{number}" for number in numbers], pa.string())


@pytest.mark.parametrize("kind", ["int64", "string"])
@pytest.mark.parametrize("seed", range(5))
def test_the_newest_row_of_each_key_is_found(kind, seed):
    rng = np.random.default_rng(seed)
    index, newest, row = KeyIndex(), {}, 0
    for _ in range(30):
        block = rng.integers(-50, 400, rng.integers(0, 60))
        index.add(as_keys(block, kind))
        for key in block:
            newest[key] = row
            row += 1
    asked = np.arange(-60, 420)
    found = index.find(as_keys(asked, kind))
    assert found.tolist() == [newest.get(key, -1) for key in asked]
    assert len(index) == row


def test_an_empty_index_finds_nothing():
    assert KeyIndex().find(pa.array([1, 2])).tolist() == [-1, -1]
    index = KeyIndex()
    index.add(pa.array([], pa.string()))
    assert index.find(pa.array(["", "a"])).tolist() == [-1, -1]


def thue_morse(length, letters):
    return "".join(letters[number.bit_count() % 2] for number in range(length))


def test_texts_with_equal_hashes_are_told_apart():
    one, other = thue_morse(4096, "ab"), thue_morse(4096, "ba")
    keys = pa.array([one, other, "c"])
    codes = key_codes(keys)
    assert codes[0] == codes[1], "these texts no longer collide: find others"
    index = KeyIndex()
    index.add(keys)
    assert index.find(pa.array([other, one, "c", "d"])).tolist() == [1, 0, 2, -1]
    index.add(pa.array([one]))
    assert index.find(pa.array([other, one])).tolist() == [1, 3]


def test_texts_that_differ_in_a_nul_or_in_length_are_different_keys():
    keys = pa.array(["a", "a\0", "", "\0", "aa"])
    index = KeyIndex()
    index.add(keys)
    assert index.find(keys).tolist() == [0, 1, 2, 3, 4]


def test_slices_of_an_array_are_read_at_their_place():
    keys = pa.array([f"k{n}" for n in range(100)])
    index = KeyIndex()
    index.add(keys[30:60])
    assert index.find(keys[50:70]).tolist() == [*range(20, 30), *[-1] * 10]


def test_large_blocks_of_text_are_hashed_piece_by_piece():
    keys = pa.array([f"{n}-{'x' * (n % 700)}" for n in range(30_000)])
    together = key_codes(keys)
    apart = np.concatenate([key_codes(keys[n : n + 7_000]) for n in range(0, 30_000, 7_000)])
    assert (together == apart).all()


@pytest.mark.parametrize("kind", ["int64", "string"])
def test_sorting_is_stable_and_free_when_sorted(kind):
    keys = as_keys([3, 1, 2, 1, 3], kind)
    assert sort_by_key(keys).tolist() == [1, 3, 2, 0, 4]
    assert sort_by_key(as_keys([1, 1, 2, 3], kind)) is None
    assert sort_by_key(as_keys([], kind)) is None
