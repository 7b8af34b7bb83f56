"""Which rows of an index may be found: a mask on the host, or a bit set on either side.

A session on the GPU hands bit sets in device memory, one on the CPU masks in host memory. An index
asks for the form that it needs; whatever has to cross the bus crosses it packed, a bit a row.
"""

from collections.abc import Sequence
from typing import TypeAlias, overload

import numpy as np

from gpuvec.device.arrays import cupy_module, is_device_array, to_device, to_host
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


def joined(keeps: Sequence[Keep | None], sizes: Sequence[int]) -> Keep | None:
    """Return the rows of several sets of rows, one after the other; None: every row.

    Args:
        keeps: on the device if one of them is.
        sizes: rows that each is about.
    """
    if all(keep is None for keep in keeps):
        return None
    on_device = any(isinstance(keep, BitSet) and is_device_array(keep.words) for keep in keeps)
    xp = cupy_module() if on_device else np
    masks = [
        xp.ones(size, bool) if keep is None else unpack(as_bits(keep)) if on_device
        else as_mask(keep)
        for keep, size in zip(keeps, sizes, strict=True)
    ]  # fmt: skip
    found = xp.concatenate(masks)
    return pack(found) if on_device else found


def passing_rows(keep: Keep) -> int:
    """Return how many rows may be found."""
    return count(keep) if isinstance(keep, BitSet) else int(np.count_nonzero(keep))
