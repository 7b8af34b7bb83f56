"""CRC-32C over bytes and arrays."""

from collections.abc import Iterable

import google_crc32c
import numpy as np

from gpuvec.storage.object_store import Buffer

_BLOCK_BYTES = 4 << 20  # other threads get their turn between blocks; 0.3 ms each


def crc32c(parts: Iterable[Buffer]) -> int:
    """Return the CRC-32C of the parts, one after the other, without copying them.

    Args:
        parts: bytes, memoryviews, mapped files, or C-contiguous arrays of any dtype.
    """
    found = 0
    for part in parts:
        flat = np.frombuffer(as_bytes(part), np.uint8)
        for start in range(0, flat.size, _BLOCK_BYTES):
            found = google_crc32c.extend(found, flat[start : start + _BLOCK_BYTES])
    return found


def as_bytes(part: Buffer) -> memoryview:
    """Return the bytes of a buffer or array, over the same memory."""
    if isinstance(part, np.ndarray):  # of a dtype that memoryview may not know, such as bfloat16
        part = part.reshape(-1).view(np.uint8)
    return memoryview(part).cast("B")
