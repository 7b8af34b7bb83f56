"""Checksums of a file's blocks: with them a part of a file is verified without the rest."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from gpuvec.once import cached_property
from gpuvec.storage.checksum import as_bytes
from gpuvec.storage.object_store import Buffer

LEAST_BYTES = 64 << 10  # of a block
MOST_BLOCKS = 1024  # of a file: their checksums lie in the manifest
_POLYNOMIAL = 0x82F63B78  # of CRC-32C, lowest bit first


@dataclass(frozen=True)
class BlockSums:
    """The CRC-32C of each block of a file; the last may be shorter.

    Attributes:
        size_bytes: of a block, a power of two.
        text: the sums as little-endian uint32, in base 64.
    """

    size_bytes: int
    text: str

    @cached_property
    def sums(self) -> NDArray[np.uint32]:
        """(blocks,) uint32."""
        return np.frombuffer(base64.b64decode(self.text), "<u4")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal record."""
        return {"bytes": self.size_bytes, "crc32c": self.text}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make the record that `to_json` wrote."""
        return cls(data["bytes"], data["crc32c"])


def sum_blocks(parts: Sequence[Buffer], length: int) -> tuple[int, BlockSums | None]:
    """Return the CRC-32C of a file and of its blocks, in one read of it.

    Args:
        parts: the file, one after the other.
        length: of all together. A short one has no blocks.
    """
    size = block_size(length)
    wanted = size if length > size else max(length, 1)
    sums, current, room = [], 0, wanted
    for part in parts:
        flat = np.frombuffer(as_bytes(part), np.uint8)
        start = 0
        while start < flat.size:
            piece = flat[start : start + room]
            current = google_crc32c.extend(current, piece)
            start, room = start + piece.size, room - piece.size
            if not room:
                sums.append(current)
                current, room = 0, wanted
    if room < wanted:
        sums.append(current)
    whole = joined_checksum(sums, wanted, length)
    if length <= size:
        return whole, None
    text = base64.b64encode(np.array(sums, "<u4").tobytes()).decode()
    return whole, BlockSums(size, text)


def block_size(length: int) -> int:
    """Return the size of the blocks of a file."""
    size = LEAST_BYTES
    while size * MOST_BLOCKS < length:
        size *= 2
    return size


def joined_checksum(sums: Sequence[int], size: int, length: int) -> int:
    """Return the CRC-32C of a file from those of its blocks, of which the last may be shorter."""
    if len(sums) < 2:
        return sums[0] if sums else 0
    found = sums[0]
    last = length - size * (len(sums) - 1)
    for number, more in enumerate(sums[1:], 2):
        found = _shifted(found, size if number < len(sums) else last) ^ more
    return found


def _shifted(checksum: int, count: int) -> int:
    """Return what a checksum adds to that of a text with `count` bytes more behind."""
    tables = _shift(count)
    return int(
        tables[0][checksum & 255]
        ^ tables[1][checksum >> 8 & 255]
        ^ tables[2][checksum >> 16 & 255]
        ^ tables[3][checksum >> 24]
    )


@lru_cache(maxsize=64)
def _shift(count: int) -> tuple[list[int], ...]:
    """Return the linear map of `count` zero bytes over GF(2), as a table for each byte."""
    bit = [_POLYNOMIAL, *(1 << n for n in range(31))]  # what one zero bit makes of each bit
    power, found = bit, [1 << n for n in range(32)]
    bits = 8 * count
    while bits:
        if bits & 1:
            found = [_applied(power, column) for column in found]
        power = [_applied(power, column) for column in power]
        bits >>= 1
    return tuple(
        [_applied(found[8 * byte : 8 * byte + 8], value) for value in range(256)]
        for byte in range(4)
    )


def _applied(columns: Sequence[int], value: int) -> int:
    found, number = 0, 0
    while value:
        if value & 1:
            found ^= columns[number]
        value >>= 1
        number += 1
    return found
