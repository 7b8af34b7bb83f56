"""Which texts contain another: all texts at once, as one run of bytes.

Two bytes of the wanted text that are rare among the texts are compared at every position, which
costs one pass over the bytes; the few positions where both fit are then looked at more closely.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

BLOCK = 1 << 18  # bytes compared at a time: they stay in the cache
SAMPLE = 1 << 16  # bytes by which the rare ones are chosen
MOST_SHARE = 0.015  # of positions where both bytes fit; where there are more, Arrow is faster
LEAST_BYTES = 1 << 15  # of texts


def contains(texts: pa.Array, wanted: str) -> pa.Array:
    """Return which texts have `wanted` in them, bool; null where the text is."""
    pattern = np.frombuffer(wanted.encode(), np.uint8)
    offsets, data = _buffers(texts)
    if len(pattern) < 2 or len(data) < LEAST_BYTES:
        return pc.match_substring(texts, pattern=wanted)
    sample = data[:SAMPLE]
    counts = np.bincount(sample, minlength=256)[pattern]
    order = np.argsort(counts, kind="stable").tolist()
    pair = sorted(order[:2])
    if len(_candidates(sample, pattern, pair)) > MOST_SHARE * len(sample):
        return pc.match_substring(texts, pattern=wanted)
    places = _candidates(data, pattern, pair)
    for step in order[2:]:
        places = places[data[places + step] == pattern[step]]
    rows = np.searchsorted(offsets, (places + offsets[0]).astype(np.int32), "right") - 1
    inside = places + offsets[0] + len(pattern) <= offsets[rows + 1]  # not across two texts
    found = np.zeros(len(texts), bool)
    found[rows[inside]] = True
    return pa.array(found, mask=texts.is_null().to_numpy(False) if texts.null_count else None)


def _candidates(
    data: NDArray[np.uint8], pattern: NDArray[np.uint8], pair: list[int]
) -> NDArray[np.int64]:
    """Return the positions at which a pattern may begin, judged by two of its bytes."""
    first, second = pair
    count = len(data) - len(pattern) + 1
    found = []
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        fits = data[start + first : stop + first] == pattern[first]
        fits &= data[start + second : stop + second] == pattern[second]
        found.append(np.flatnonzero(fits) + start)
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _buffers(texts: pa.Array) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return where each text begins and ends, and the bytes from the first to the last."""
    _, offsets, data = texts.buffers()
    if not len(texts) or data is None or not pa.types.is_string(texts.type):
        return np.zeros(1, np.int32), np.empty(0, np.uint8)
    places = np.frombuffer(offsets, np.int32, len(texts) + 1, texts.offset * 4)
    return places, np.frombuffer(data, np.uint8)[places[0] : places[-1]]
