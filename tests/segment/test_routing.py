import numpy as np
import pyarrow as pa
import pytest

from gpuvec.segment.routing import MOST_CHANNELS, channel_of, places_by_channel


def test_the_channels_of_these_keys_never_change():
    """They are part of the format: where they changed, rows of old databases would be lost."""
    numbers = pa.array([0, 1, 2, 3, 41, -1, 2**63 - 1, -(2**63)])
    texts = pa.array(["", "a", "b", "ab", "ba", "é", "a much longer key, of more than eight bytes"])
    assert channel_of(numbers, 3).tolist() == [2, 1, 1, 0, 0, 2, 0, 0]
    assert channel_of(numbers, 64).tolist() == [56, 36, 37, 7, 4, 57, 10, 18]
    assert channel_of(texts, 3).tolist() == [2, 0, 1, 1, 1, 1, 2]
    assert channel_of(texts, 64).tolist() == [56, 0, 28, 33, 37, 29, 43]


@pytest.mark.parametrize("count", [1, 2, 3, 7, MOST_CHANNELS])
@pytest.mark.parametrize("kind", ["numbers", "texts"])
def test_keys_that_count_up_spread_evenly(count, kind):
    keys = np.arange(40_000)
    keys = pa.array(keys) if kind == "numbers" else pa.array([f"doc-{key}" for key in keys])
    found = np.bincount(channel_of(keys, count), minlength=count)
    assert found.min() > 0.85 * len(keys) / count


def test_a_key_has_its_channel_however_it_comes():
    keys = pa.array(["x", "yy", "zzz", "w"])
    whole = channel_of(keys, 5)
    assert channel_of(keys.slice(1, 2), 5).tolist() == whole[1:3].tolist()
    assert channel_of(pa.chunked_array([keys[:1], keys[1:]]), 5).tolist() == whole.tolist()
    assert channel_of(keys.cast(pa.large_string()), 5).tolist() == whole.tolist()
    assert channel_of(pa.array([], pa.int64()), 5).tolist() == []


def test_places_hold_every_row_once_and_in_order():
    numbers = np.array([2, 0, 2, 2, 0])
    assert [p.tolist() for p in places_by_channel(numbers, 4)] == [[1, 4], [], [0, 2, 3], []]
