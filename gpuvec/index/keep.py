"""Which rows of an index may be found: a mask on the host, or a bit set on either side.

A session on the GPU hands bit sets in device memory, one on the CPU masks in host memory. An index
asks for the form that it needs; whatever has to cross the bus crosses it packed, a bit a row.
"""

from typing import TypeAlias, overload

import numpy as np

from gpuvec.device.arrays import to_device, to_host
from gpuvec.kernels.bitset import BitSet, count, pack, unpack
from gpuvec.types import RowMask

Keep: TypeAlias = RowMask | BitSet  # True, or a set bit: the row may be found


@overload
def as_bits(keep: Keep) -> BitSet: ...
@overload
def as_bits(keep: None) -> None: ...
@overload
def as_bits(keep: Keep | None) -> BitSet | None: ...
def as_bits(keep: Keep | None) -> BitSet | None:
    """Return a bit set in device memory; None, which stands for every row, stays None.

    Raises:
        UnsupportedError: `GV-901`, CuPy is missing.
    """
    if keep is None:
        return None
    bits = keep if isinstance(keep, BitSet) else pack(keep)
    return BitSet(to_device(bits.words, "bits"), bits.num_rows)


@overload
def as_mask(keep: Keep) -> RowMask: ...
@overload
def as_mask(keep: None) -> None: ...
@overload
def as_mask(keep: Keep | None) -> RowMask | None: ...
def as_mask(keep: Keep | None) -> RowMask | None:
    """Return a (rows,) bool mask in host memory; None, which stands for every row, stays None."""
    if keep is None:
        return None
    if isinstance(keep, BitSet):
        return unpack(BitSet(to_host(keep.words, "bits"), keep.num_rows))  # type: ignore[no-any-return]
    return to_host(keep).astype(bool, copy=False)  # type: ignore[no-any-return]


def passing_rows(keep: Keep) -> int:
    """Return how many rows may be found."""
    return count(keep) if isinstance(keep, BitSet) else int(np.count_nonzero(keep))
