"""Row masks as bit sets: bit i of the set stands for row i, 1 = keep.

32 rows a uint32 word, least significant bit first, which is the order of cuVS and FAISS; bits
behind the last row are 0.
"""

from dataclasses import dataclass
from functools import reduce

import numpy as np

from gpuvec.device.arrays import array_namespace, is_device_array
from gpuvec.errors import wrong_length
from gpuvec.types import Array

WORD = 32


@dataclass(frozen=True, slots=True, eq=False)
class BitSet:
    """A set of rows.

    Attributes:
        words: (ceil(num_rows / 32),) uint32, on host or device.
        num_rows: bits that stand for a row.
    """

    words: Array
    num_rows: int

    def __len__(self) -> int:
        return self.num_rows


def pack(mask: Array) -> BitSet:
    """Make a bit set of a (rows,) bool mask, on the device of the mask."""
    xp = array_namespace(mask)
    count = -(-len(mask) // WORD)
    octets = xp.zeros(count * WORD // 8, xp.uint8)
    octets[: -(-len(mask) // 8)] = xp.packbits(xp.asarray(mask, bool), bitorder="little")
    return BitSet(octets.view(xp.uint32), len(mask))


def unpack(bits: BitSet) -> Array:
    """Make the (rows,) bool mask of a bit set."""
    xp = array_namespace(bits.words)
    octets = xp.ascontiguousarray(bits.words).view(xp.uint8)
    return xp.unpackbits(octets, bitorder="little")[: bits.num_rows].astype(bool)


def both(*sets: BitSet) -> BitSet:
    """Return the rows that are in every set.

    Raises:
        QueryError: `GV-314`, sets over different numbers of rows; `GV-311`, of both sides.
    """
    return BitSet(reduce(lambda a, b: a & b, _words(sets)), sets[0].num_rows)


def either(*sets: BitSet) -> BitSet:
    """Return the rows that are in any set; errors as in `both`."""
    return BitSet(reduce(lambda a, b: a | b, _words(sets)), sets[0].num_rows)


def without(bits: BitSet, removed: BitSet) -> BitSet:
    """Return the rows of the first set that the second lacks; errors as in `both`."""
    kept, gone = _words((bits, removed))
    return BitSet(kept & ~gone, bits.num_rows)


def count(bits: BitSet) -> int:
    """Return how many rows are in the set."""
    if is_device_array(bits.words):
        from gpuvec.kernels.launch import kernel_of

        xp = array_namespace(bits.words)
        total = xp.zeros(1, xp.uint64)
        kernel_of("bitset.cu", "count_bits").over(
            len(bits.words), bits.words, np.int64(len(bits.words)), total
        )
        return int(total[0])
    return int(np.bitwise_count(bits.words).sum(dtype=np.int64))


def _words(sets: tuple[BitSet, ...]) -> list[Array]:
    array_namespace(*(bits.words for bits in sets))
    for bits in sets[1:]:
        if bits.num_rows != sets[0].num_rows:
            raise wrong_length("bit set", wanted=sets[0].num_rows, got=bits.num_rows)
    return [bits.words for bits in sets]
