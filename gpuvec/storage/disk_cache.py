"""The disk cache that the settings name: one for all databases of this process."""

import os
import threading
from pathlib import Path

from gpuvec.settings import config
from gpuvec.storage.cache import DEFAULT_SHARE, MOST_BYTES, DirectoryCache, free_bytes

_FOLDER = "files-1"  # a later layout has another name
_caches: dict[str, DirectoryCache] = {}  # by folder
_lock = threading.Lock()


def disk_cache() -> DirectoryCache | None:
    """Return the cache of the settings `cache.dir` and `cache.size_bytes`; None: it has no bytes.

    By default it may have a tenth of what is free on its disk, with what it holds of that, but not
    more than 100 GiB. A size up to 1 is a share of the same.
    """
    folder = cache_folder() / _FOLDER
    wanted = config["cache.size_bytes"]
    if wanted == 0:
        return None
    with _lock:
        cache = _caches.get(str(folder))
        if cache is None:
            cache = _caches[str(folder)] = DirectoryCache(folder, 0)
        if wanted is None or wanted <= 1:
            share = int((wanted or DEFAULT_SHARE) * (_disk_bytes(folder) + cache.held_bytes))
            wanted = min(share, MOST_BYTES) if wanted is None else share
        cache.size_bytes = int(wanted)
    return cache


def cache_folder() -> Path:
    """Return the folder of the setting `cache.dir`; by default the user's, for all programs."""
    chosen = config["cache.dir"]
    if chosen is not None:
        return Path(chosen).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "gpuvec"


def _disk_bytes(folder: Path) -> int:
    """Return what is free where a folder is, or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return free_bytes(str(folder))
    except OSError:
        return 0
