"""Reading listed objects several at a time, for those who ask for one after the other.

Procedures list a log and then read it object by object; from a bucket, each would cost a round
trip. Whoever reads the second of two neighbours of a list is about to read what follows, so that is
fetched with it.

What was fetched is served to the same thread only, once, and only while that thread does nothing
but read: any other call forgets it. An answer is therefore never older than the last listing.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from gpuvec.errors import StorageError

WINDOW = 32  # objects
WINDOW_BYTES = 32 << 20
_THREADS = 16


class _Listing(threading.local):
    """What one thread listed last, and has fetched of it."""

    def __init__(self) -> None:
        self.keys: Sequence[str] = ()
        self.places: dict[str, int] = {}
        self.last = -2  # place of the key that was read last
        self.size = 0  # its bytes
        self.ready: dict[str, bytes] = {}


class ReadAhead:
    """Safe for use by several threads.

    Args:
        fetch: reads one object.
    """

    def __init__(self, fetch: Callable[[str], bytes]) -> None:
        self._fetch = fetch
        self._listing = _Listing()

    def note(self, keys: Sequence[str]) -> None:
        """Note what this thread listed."""
        self._listing.__init__()  # type: ignore[misc]
        self._listing.keys = keys
        self._listing.places = {key: place for place, key in enumerate(keys)}

    def forget(self) -> None:
        """Note that this thread does something else than reading."""
        if self._listing.keys:
            self._listing.__init__()  # type: ignore[misc]

    def get(self, key: str) -> bytes:
        """Return an object, perhaps with others fetched for later."""
        listing = self._listing
        place = listing.places.get(key, -2)
        data = listing.ready.pop(key, None)
        if data is None:
            follows = place >= 0 and place == listing.last + 1
            data = self._fetch_from(place) if follows else self._fetch(key)
        listing.last, listing.size = place, len(data)
        return data

    def _fetch_from(self, place: int) -> bytes:
        """Fetch the object at a place of the list, and as many after it as are not too large."""
        listing = self._listing
        count = min(WINDOW, WINDOW_BYTES // max(listing.size, 1))
        first, *others = listing.keys[place : place + max(count, 1)]
        if not others:
            return self._fetch(first)
        with ThreadPoolExecutor(_THREADS) as pool:
            wanted = pool.submit(self._fetch, first)
            for key, data in zip(others, pool.map(self._try, others), strict=True):
                if data is not None:
                    listing.ready[key] = data
            return wanted.result()

    def _try(self, key: str) -> bytes | None:
        """Fetch what nobody asked for yet; whoever does will meet the error."""
        try:
            return self._fetch(key)
        except StorageError:
            return None
