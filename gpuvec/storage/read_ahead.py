"""Reading listed objects several at a time, for those who ask for one after the other.

Procedures list a log and then read it object by object; from a bucket, each would cost a round
trip. Whoever reads the second of two neighbours of a list is about to read what follows, so that is
fetched with it.

What was fetched is served to the same thread only, once, and only while that thread does nothing
but read: any other call forgets it. An answer is therefore never older than the last listing.

Segments are read one after the other too. Whoever reads the same file of two neighbours is about to
read those of the next.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from gpuvec.errors import StorageError
from gpuvec.storage.records import FileRecord, SegmentFiles
from gpuvec.storage.remote_files import RemoteFiles
from gpuvec.types import SegmentId

WINDOW = 32  # objects
WINDOW_BYTES = 32 << 20
SCALARS = ""  # in the place of a field's name
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


class Neighbours:
    """The segments of a collection in order. Safe for use by several threads.

    Args:
        files: fetches; None: what is read needs no fetching.
    """

    def __init__(self, files: RemoteFiles | None) -> None:
        self._files = files
        self._order: Mapping[SegmentId, int] = {}
        self._records: Sequence[SegmentFiles] = ()
        self._last: dict[str, int] = {}  # place of the segment that was read last, by field

    def put(self, segments: Sequence[SegmentFiles]) -> None:
        """Say which segments there are."""
        if self._files is not None:
            self._records = segments
            self._order = {record.segment_id: at for at, record in enumerate(segments)}

    def before(self, segment: SegmentId, field: str) -> None:
        """Fetch the file of a field, or `SCALARS`, of this segment and of those that follow."""
        records, place = self._records, self._order.get(segment)
        if self._files is None or place is None or place >= len(records):
            return
        step = place - self._last.get(field, place)
        self._last[field] = place
        if abs(step) == 1:
            following = records[place:] if step == 1 else records[place::-1]
            files = [_file(record, field) for record in following]
            count = self._files.ahead([file for file in files if file is not None])
            self._last[field] = place + step * max(count - 1, 0)


def _file(record: SegmentFiles, field: str) -> FileRecord | None:
    return record.scalar if field == SCALARS else record.vectors.get(field)
