"""Which channel of a collection a row belongs to: its primary key alone decides, for ever.

Every process must agree, and files outlive processes: so this is part of the format. An integer
key is its own code, a string's is `segment.keys.key_codes`; the code is mixed by the finaliser of
SplitMix64, and the upper half of the result, as a fraction of 2**32, chooses among the channels.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.segment.keys import Positions, key_codes, one_array

MOST_CHANNELS = 64

_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_START = np.uint64(0x9E3779B97F4A7C15)


def channel_of(keys: pa.Array | pa.ChunkedArray, count: int) -> NDArray[np.int64]:
    """Return the number of each key's channel.

    Args:
        keys: (rows,) int64 or string, not null.
        count: of the collection's channels, 1 to `MOST_CHANNELS`.

    Returns:
        (rows,) from 0 to count - 1.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    codes = key_codes(one_array(keys)).astype(np.uint64) + _START
    codes = (codes ^ (codes >> np.uint64(30))) * _FIRST
    codes = (codes ^ (codes >> np.uint64(27))) * _SECOND
    codes ^= codes >> np.uint64(31)
    return np.asarray(((codes >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32), np.int64)


def places_by_channel(numbers: NDArray[np.int64], count: int) -> Sequence[Positions]:
    """Return the rows of each channel, in their order: what `channel_of` returned, inverted."""
    order = np.argsort(numbers, kind="stable")
    ends = np.cumsum(np.bincount(numbers, minlength=count))
    return np.split(order, ends[:-1])
