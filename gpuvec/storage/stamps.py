"""Whether anything changed below some folders, told for little.

A bucket's folder of numbered keys is known by its newest one: a short listing after that tells
whether there is a newer. Logs never delete their newest key.

In a local one, a few `stat` calls tell it. A folder's times change with every name that is made or
removed in it; a log's size changes with every append. Times have ticks, within which a second
change leaves no trace: so a folder's times count once they have stood still for `SETTLED_S`, by a
clock of this process. And since some file systems (over a network, in user space) keep no such
times, no stamp lives longer than `KEPT_S`: on these, and only these, a read may miss what was
written in so short a time.
"""

import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext

from gpuvec.storage import keys
from gpuvec.storage.object_store import ObjectStore

SETTLED_S = 2.5  # FAT ticks every two seconds
KEPT_S = 0.1

_Times = tuple[int, int, int, int]


class Stamps:
    """Stamps of folders and logs below one root. Safe for use by several threads.

    Args:
        root: the folder of a local store.
        now_s: a clock that never goes back.
    """

    def __init__(self, root: str, now_s: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._now_s = now_s
        self._seen: dict[str, tuple[_Times, float]] = {}  # folder: its times, and since when

    def stamp(self, folders: Sequence[str], logs: Sequence[str]) -> Hashable | None:
        """See `ObjectStore.stamp`."""
        now = self._now_s()
        found: list[Hashable] = [int(now / KEPT_S)]
        try:
            for folder in folders:
                times = _times(os.stat(f"{self._root}/{folder}"))
                before = self._seen.get(folder)
                if before is None or before[0] != times:
                    self._seen[folder] = (times, now)
                    return None
                if now - before[1] < SETTLED_S:
                    return None
                found.append(times)
            for log in logs:
                file = os.stat(f"{self._root}/{log}")
                found.append((log, file.st_ino, file.st_size, file.st_mtime_ns))
        except OSError:
            return None
        return tuple(found)


class NewestKeys:
    """Stamps of a bucket's folders. Safe for use by several threads.

    Args:
        listed: gives the keys that begin with one text and come after another, sorted.
    """

    def __init__(self, listed: Callable[[str, str], Sequence[str]]) -> None:
        self._listed = listed
        self._newest: dict[str, str] = {}  # by folder
        self._now = threading.local()  # `.found`: folder to newest key, in a block of `together`

    def of(self, folders: Sequence[str]) -> Hashable:
        """Return the newest numbered key of each folder; "" where there is none."""
        known: dict[str, str] = getattr(self._now, "found", {})
        missing = [folder for folder in folders if folder not in known]
        found = {**known, **self._look(missing)} if missing else known
        return tuple(found[folder] for folder in folders)

    @contextmanager
    def together(self, folders: Sequence[str]) -> Iterator[None]:
        """Look at folders now, for all calls of `of` by this thread in the block."""
        before = getattr(self._now, "found", {})
        self._now.found = {**before, **self._look([f for f in folders if f not in before])}
        try:
            yield
        finally:
            self._now.found = before

    def _look(self, folders: Sequence[str]) -> dict[str, str]:
        if len(folders) < 2:
            return {folder: self._look_at(folder) for folder in folders}
        with ThreadPoolExecutor(len(folders)) as pool:
            return dict(zip(folders, pool.map(self._look_at, folders), strict=True))

    def _look_at(self, folder: str) -> str:
        newest = self._newest.get(folder, "")
        numbered = [
            key
            for key in self._listed(f"{folder}/", newest)
            if keys.parse_number(key) is not None and key.rpartition("/")[0] == folder
        ]
        found = max(numbered, default=newest)
        self._newest[folder] = max(found, self._newest.get(folder, ""))
        return found


def together(store: ObjectStore, folders: Sequence[str]) -> AbstractContextManager[None]:
    """Take the stamps of a bucket's folders at once, for this thread in the block.

    Reads in the block see all that was written before it began, perhaps nothing newer.
    """
    taken = getattr(store, "together", None)
    found: AbstractContextManager[None] = nullcontext() if taken is None else taken(folders)
    return found


class LastRead:
    """When some folders were read last, by their stamp, so that they need not be read again.

    Args:
        store: that holds them.
        folders: see `ObjectStore.stamp`.
    """

    def __init__(self, store: ObjectStore, *folders: str) -> None:
        self._store = store
        self._folders = folders
        self._last: Hashable | None = None

    def stamp(self, *logs: str) -> Hashable | None:
        """Return what to `note` after a reading that begins now; see `ObjectStore.stamp`."""
        return self._store.stamp(self._folders, logs)

    def is_at(self, stamp: Hashable | None) -> bool:
        """Return whether nothing changed since the last reading."""
        return stamp is not None and stamp == self._last

    def note(self, stamp: Hashable | None) -> None:
        """Say that what there was at a stamp has been read."""
        self._last = stamp

    def forget(self) -> None:
        """Say that it must be read again."""
        self._last = None


def _times(folder: os.stat_result) -> _Times:
    return folder.st_ino, folder.st_dev, folder.st_mtime_ns, folder.st_ctime_ns
