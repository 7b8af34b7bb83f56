"""Files of a store behind a network: from the disk cache, from memory, or in part from the store.

Whatever is returned was compared with the checksums in the manifest since it came to this machine.
"""

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np

from gpuvec import errors, telemetry
from gpuvec.storage.blocks import BlockSums
from gpuvec.storage.cache import ChangedError, DirectoryCache, Write
from gpuvec.storage.checksum import crc32c
from gpuvec.storage.records import FileRecord
from gpuvec.storage.resident import Bytes, Resident

PART_SHARE = 4  # a part is fetched alone while it is less than such a share of its file
RUN_BYTES = 16 << 20  # of one request for a part
AHEAD_FILES = 16  # fetched at once
AHEAD_BYTES = 64 << 20  # of these; larger files are fetched in parts at once
_GAP_BLOCKS = 1  # fetched with their neighbours: cheaper than another request
_THREADS = 8
_BUDGET_BYTES = 256 << 20  # until a connection says how much memory there is

Blocks = dict[int, Bytes]  # by number


class Fetching(Protocol):
    """The part of a store that files need."""

    identity: str

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `ObjectStore.get_range`."""

    def fetch(self, key: str, length: int, write: Write) -> None:
        """Write a whole object, in parts and perhaps by several threads; `CorruptError` as `get`.

        Args:
            key: of the object.
            length: that it must have.
            write: takes an offset and bytes.
        """


class RemoteFiles:
    """Reads files of one store. Safe for use by several threads.

    Args:
        store: holds them.
        cache: on a local disk; None: there is none.
        resident: in memory, of what is not in the cache.
    """

    def __init__(
        self, store: Fetching, cache: DirectoryCache | None, resident: Resident | None = None
    ) -> None:
        self._store = store
        self.cache = cache
        self.resident = resident or Resident(_BUDGET_BYTES, _BUDGET_BYTES)
        self._lock = threading.Lock()  # guards what follows
        self._in_parts: dict[str, int] = {}  # bytes fetched of files, by key
        self._requests = 0
        self._fetched_bytes = 0

    def whole(self, record: FileRecord, before: Callable[[], None] = lambda: None) -> Bytes:
        """Return a file, (length,) uint8: mapped, or held in memory.

        Args:
            record: of the file.
            before: called before a file is fetched: it may fetch others with it.

        Raises:
            CorruptError: `GV-501` missing, `GV-502` of another length, `GV-503` changed.
            DeviceMemoryError: `GV-561`, neither the cache nor memory has room.
        """
        if not record.length:
            return np.zeros(0, np.uint8)
        found = self.at_hand(record)
        if found is not None:
            return found
        before()
        if self.cache is not None:
            name, length, wanted = self._name(record), record.length, record.crc32c
            try:
                found = self.cache.fill(name, length, wanted, lambda w: self._fetch(record, w))
            except ChangedError as error:
                raise errors.wrong_checksum(record.key, wanted=wanted, got=error.got) from None
        if found is None:
            found = self.resident.load(
                record.key, record.length, lambda array: self._read_into(record, array)
            )
        return found

    def at_hand(self, record: FileRecord) -> Bytes | None:
        """Return a file that need not be fetched, None for any other."""
        found = self.resident.find(record.key)
        if found is None and self.cache is not None and record.length:
            found = self.cache.find(self._name(record), record.length, record.crc32c)
        return found

    def ahead(self, records: Iterable[FileRecord], most: int = AHEAD_FILES) -> int:
        """Fetch files that are not at hand, several at once, as far as they are few and small.

        Returns:
            How many of `records` are then at hand, unless fetching failed.
        """
        room = self.resident.budget_bytes if self.cache is None else self.cache.size_bytes
        room = min(AHEAD_BYTES, room // 2)
        wanted: list[FileRecord] = []
        count = 0
        for record in records:
            if self.at_hand(record) is None and record.length:
                room -= record.length
                if room < 0 or len(wanted) == most:
                    break
                wanted.append(record)
            count += 1
        if len(wanted) > 1:
            with ThreadPoolExecutor(min(AHEAD_FILES, len(wanted))) as pool:
                list(pool.map(self._try, wanted))
        return count

    def _try(self, record: FileRecord) -> None:
        """Fetch what nobody asked for yet; whoever does will meet the error."""
        try:
            self.whole(record)
        except (errors.StorageError, errors.DeviceMemoryError):
            return

    def blocks(self, record: FileRecord, numbers: Sequence[int]) -> Blocks | None:
        """Return some blocks of a file, each verified; None: fetch the whole of it instead.

        That is so where blocks have no checksums, are a large part of the file, or so much of it
        was fetched by parts already.

        Args:
            record: of the file.
            numbers: rising.
        """
        sums = record.blocks
        if sums is None:
            return None
        found = {n: self.resident.find((record.key, n)) for n in numbers}
        missing = [number for number, block in found.items() if block is None]
        with self._lock:
            size = self._in_parts.get(record.key, 0) + len(missing) * sums.size_bytes
            if size * PART_SHARE > record.length and self._has_room(record.length):
                return None
            self._in_parts[record.key] = size
        if missing:
            runs = _runs(missing, RUN_BYTES // sums.size_bytes)
            with ThreadPoolExecutor(min(_THREADS, len(runs))) as pool:
                for blocks in pool.map(lambda run: self._run(record, sums, *run), runs):
                    found.update(blocks)
        return {n: block for n, block in found.items() if block is not None}

    def _has_room(self, length: int) -> bool:
        on_disk = 0 if self.cache is None else self.cache.size_bytes
        return length <= max(on_disk, self.resident.most_bytes)

    def _run(self, record: FileRecord, sums: BlockSums, first: int, last: int) -> Blocks:
        """Fetch consecutive blocks."""
        size = sums.size_bytes
        start, stop = first * size, min((last + 1) * size, record.length)
        data = np.frombuffer(self._store.get_range(record.key, start, stop - start), np.uint8)
        self._note(stop - start)
        found = {}
        for number in range(first, last + 1):
            at = (number - first) * size
            block = data[at : at + size].copy()
            wanted, got = int(sums.sums[number]), crc32c([block])
            if got != wanted:
                raise errors.wrong_checksum(
                    f"{record.key}, from byte {start + at:,}", wanted=wanted, got=got
                )
            block.flags.writeable = False
            self.resident.keep((record.key, number), block)
            found[number] = block
        return found

    def stats(self) -> dict[str, Any]:
        """Return what was fetched and found so far, in this process."""
        found: dict[str, Any] = {
            "requests": self._requests,
            "fetched_bytes": self._fetched_bytes,
            "memory_bytes": self.resident.held_bytes,
            "memory_peak_bytes": self.resident.peak_bytes,
            "disk": None,
        }
        if self.cache is not None:
            found["disk"] = {
                "folder": self.cache.folder,
                "size_bytes": self.cache.size_bytes,
                "held_bytes": self.cache.held_bytes,
                **asdict(self.cache.counts),
            }
        return found

    def _fetch(self, record: FileRecord, write: Write) -> None:
        self._store.fetch(record.key, record.length, write)
        self._note(record.length)

    def _read_into(self, record: FileRecord, array: Bytes) -> None:
        def write(offset: int, data: Any) -> None:
            piece = np.frombuffer(data, np.uint8)
            array[offset : offset + piece.size] = piece

        self._fetch(record, write)
        got = crc32c([array])
        if got != record.crc32c:
            raise errors.wrong_checksum(record.key, wanted=record.crc32c, got=got)

    def _note(self, size: int) -> None:
        with self._lock:
            self._requests += 1
            self._fetched_bytes += size
        telemetry.STORE_REQUESTS.add(1, "get")
        telemetry.STORE_BYTES.add(size, "read")

    def _name(self, record: FileRecord) -> str:
        text = f"{self._store.identity}\0{record.key}\0{record.length}\0{record.crc32c:08x}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _runs(numbers: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Return first and last of the runs in rising numbers, small gaps included."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        near = found and number - found[-1][1] <= _GAP_BLOCKS + 1
        if near and number - found[-1][0] < max(most, 1):
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found
