"""Rows that may be found, as masks and bits, on either side."""

import numpy as np
import pytest

from gpuvec.device import transfer
from gpuvec.device.arrays import is_device_array
from gpuvec.index.keep import as_bits, as_mask, joined, passing_rows
from gpuvec.kernels import bitset

MASKS = [np.arange(n) % step == 0 for n, step in ((70, 3), (33, 2), (64, 5))]


def test_none_stands_for_every_row_and_stays_none():
    assert as_bits(None) is as_mask(None) is joined([None, None], [3, 4]) is None


def test_masks_go_up_and_bits_come_down_packed(rehearsed):
    before = transfer.copied()
    bits = as_bits(MASKS[0])
    assert is_device_array(bits.words)
    np.testing.assert_array_equal(as_mask(bits), MASKS[0])
    after = transfer.copied()
    for direction in (transfer.UP, transfer.DOWN):
        assert after[direction, "bits"] - before.get((direction, "bits"), 0) == 3 * 4


def test_bits_on_the_device_are_not_copied(rehearsed):
    bits = as_bits(MASKS[0])
    assert as_bits(bits).words is bits.words


@pytest.mark.parametrize("place", ["host", "device"])
def test_sets_of_rows_are_joined_where_they_lie(rehearsed, place):
    keeps = [MASKS[0], None, MASKS[1], MASKS[2]]
    if place == "device":
        keeps = [None if keep is None else as_bits(keep) for keep in keeps]
    wanted = np.concatenate([MASKS[0], np.ones(10, bool), MASKS[1], MASKS[2]])
    before = transfer.copied()
    found = joined(keeps, [70, 10, 33, 64])
    assert transfer.copied() == before
    assert isinstance(found, bitset.BitSet) == (place == "device")
    assert passing_rows(found) == wanted.sum()
    np.testing.assert_array_equal(as_mask(found), wanted)
