"""Rows that searches read on a device: they lie there, or come tile by tile from the host."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpuvec.device import transfer
from gpuvec.device.disk import FilePlace, read_file
from gpuvec.device.library import cupy_module, is_bfloat16, is_device_array
from gpuvec.device.residency import DeviceStore, Key
from gpuvec.errors import DeviceMemoryError
from gpuvec.types import Array

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class HeldRows:
    """Rows for as long as a block holds them.

    Attributes:
        array: (n, ...) all of them on the device; None: they are streamed.
        host: (n, ...) all of them in host memory; None: they are on the device.
    """

    array: Array | None
    host: NDArray[Any] | None

    @property
    def row_scratch(self) -> int:
        """Bytes of scratch that one row of a tile takes."""
        if self.host is None:
            return 0
        return 2 * self.host.dtype.itemsize * prod(self.host.shape[1:])

    def tiles(self, most_rows: int) -> Iterator[transfer.Tile]:
        """Yield all rows, once and in order.

        What is done with a tile must be begun, on the current stream, before the next is asked for;
        then its memory holds other rows.

        Args:
            most_rows: of one tile. Streamed rows take `row_scratch` for each, which the caller
                has booked.
        """
        if self.array is not None:
            for start in range(0, len(self.array), most_rows):
                stop = min(len(self.array), start + most_rows)
                yield transfer.Tile(start, stop, self.array[start:stop])
            return
        assert self.host is not None
        yield from transfer.stream_rows(self.host, most_rows, "vectors")

    def take(self, places: Array) -> Array:
        """Return the rows at (m,) int64 places on the device, in that order, copied."""
        if self.array is not None:
            return self.array[places]
        assert self.host is not None
        return transfer.upload(self.host[transfer.download(places, "bits")], "vectors")


class DeviceRows:
    """Rows of one segment for a device: vectors, or numbers that go with them.

    They stay on the card while the budget has room, are let go when others need it, and come again
    from the host. Those that never fit are streamed by each search.

    Args:
        shape: of all rows, (n, ...).
        dtype: of the host's array.
        read: returns that array; mapped, or read anew: nothing of it is held between searches.
        store: of the database, or of one search.
        key: see `DeviceStore`.
        part: see `DeviceStore.use`.
        owner: see `DeviceStore.use`.
        place: tells where the array lies in a file on a local disk; None: it lies in none.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        read: Callable[[], NDArray[Any]],
        store: DeviceStore,
        key: Key,
        *,
        part: str = "vectors",
        owner: str = "",
        place: Callable[[], tuple[str, int] | None] = lambda: None,
    ) -> None:
        self.shape = shape
        self.dtype = np.dtype(np.uint16) if dtype.name == "bfloat16" else dtype
        self.nbytes = prod(shape) * self.dtype.itemsize
        self._read = read
        self._store = store
        self._key = key
        self._part = part
        self._owner = owner
        self._place = place

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Axes."""
        return len(self.shape)

    @property
    def like(self) -> Array:
        """No rows, as an array of the same width and dtype on the device."""
        return cupy_module().empty((0, *self.shape[1:]), self.dtype)

    def on_host(self) -> NDArray[Any]:
        """Return all rows in host memory: mapped, or read anew."""
        return self._read()

    @property
    def is_resident(self) -> bool:
        """Whether they are on the card now."""
        return self._store.has(self._key)

    @contextmanager
    def held(self) -> Iterator[HeldRows]:
        """Hold the rows on the card while a block runs, or stream them if there is no room."""
        with self._resident() as array:
            if array is not None:
                yield HeldRows(array, None)
                return
        host = self._read()
        yield HeldRows(None, host.view(np.uint16) if is_bfloat16(host) else host)

    @contextmanager
    def _resident(self) -> Iterator[Array | None]:
        with self._room(self._key, self.nbytes, self._upload, self._part) as array:
            yield array

    @contextmanager
    def derived(self, what: str, size_bytes: int, make: Callable[[], T]) -> Iterator[T | None]:
        """Hold something that is made of the rows on the card while a block runs.

        Args:
            what: its name.
            size_bytes: that it takes, at most.
            make: called if it is not there; may hold the rows itself.

        Yields:
            It; None where there is no room for it.
        """
        with self._room((*self._key, "derived", what), size_bytes, make, "indexes") as value:
            yield value

    def has_derived(self, what: str) -> bool:
        """Return whether something that is made of the rows is on the card now."""
        return self._store.has((*self._key, "derived", what))

    def common(self, what: str, make: Callable[[], T]) -> T:
        """Return something small that such rows of all segments of the collection share.

        It is made each time for rows of no collection: they share it with nobody.

        Args:
            what: its name.
            make: called if it is not there.
        """
        if not self._owner:
            return make()
        return self._store.common(self._owner, (self._key[2:], what), make)

    @contextmanager
    def _room(
        self, key: Key, size_bytes: int, make: Callable[[], T], part: str
    ) -> Iterator[T | None]:
        """Hold something if there is room for it; None where there is not."""
        with ExitStack() as stack:
            value = None
            if self._store.has(key) or self._store.fits(size_bytes):
                use = self._store.use(key, size_bytes, make, part=part, owner=self._owner)
                try:
                    value = stack.enter_context(use)
                except DeviceMemoryError as error:
                    if error.code != "GV-903":
                        raise
            yield value

    def _upload(self) -> Array:
        where = self._place()
        if where is not None:
            found = read_file(FilePlace(*where), self.shape, self.dtype, "vectors")
            if found is not None:
                return found
        return transfer.upload(self._read(), "vectors")

    def scratch(self, least: int, most: int, *, what: str) -> AbstractContextManager[int]:
        """Book room for temporary data; see `Budget.scratch`."""
        return self._store.budget.scratch(least, most, what=what)


class ArrayRows(DeviceRows):
    """Rows that the caller has put on the device: they stay there, and nobody books them."""

    def __init__(self, array: Array) -> None:
        self._array = array
        self._derived: dict[str, Any] = {}
        self.shape, self.dtype, self.nbytes = array.shape, array.dtype, array.nbytes

    def on_host(self) -> NDArray[Any]:
        """See `DeviceRows.on_host`."""
        return transfer.download(self._array, "vectors")

    @property
    def is_resident(self) -> bool:
        """See `DeviceRows.is_resident`."""
        return True

    @contextmanager
    def held(self) -> Iterator[HeldRows]:
        """See `DeviceRows.held`."""
        yield HeldRows(self._array, None)

    @contextmanager
    def derived(self, what: str, size_bytes: int, make: Callable[[], T]) -> Iterator[T | None]:
        """See `DeviceRows.derived`; it stays as long as these rows."""
        if what not in self._derived:
            self._derived[what] = make()
        yield self._derived[what]

    def has_derived(self, what: str) -> bool:
        """See `DeviceRows.has_derived`."""
        return what in self._derived

    def common(self, what: str, make: Callable[[], T]) -> T:
        """See `DeviceRows.common`: with nobody."""
        if what not in self._derived:
            self._derived[what] = make()
        found: T = self._derived[what]
        return found

    def scratch(self, least: int, most: int, *, what: str) -> AbstractContextManager[int]:
        """See `DeviceRows.scratch`; of the budget of the current card."""
        from gpuvec.device.residency import device_store

        return device_store().budget.scratch(least, most, what=what)


def device_rows(rows: DeviceRows | Array) -> DeviceRows:
    """Return rows as they are, or a device array as rows."""
    if isinstance(rows, DeviceRows):
        return rows
    if not is_device_array(rows):
        raise AssertionError("an array in host memory is not among the device's rows")
    return ArrayRows(rows)
