"""Numba's `njit`, with a cache of machine code that notices every change of a folder.

Numba compares only the file of the function that it loads. Code that was inlined from a file beside
it would stay old after an upgrade, so the cache of a folder is dropped when any of its files
changes. Compiling takes seconds, once per installation and processor; it is said on stderr.
"""

import contextlib
import sys
import zlib
from pathlib import Path

from numba import __version__ as numba_version
from numba import njit as njit

from gpuvec.settings import config

_MARK = "compiled.stamp"


def use_fresh_code(folder: Path) -> None:
    """Drop the machine code cached for a folder of Python files that have changed since.

    Call it once in a package, before its compiled functions load. A folder that cannot be written
    keeps no cache; Numba then keeps one per user, by path and time of change.
    """
    cache = folder / "__pycache__"
    mark = cache / _MARK
    stamp = _stamp(folder)
    with contextlib.suppress(OSError):
        if mark.is_file() and mark.read_text() == stamp:
            return
        for old in (*cache.glob("*.nbi"), *cache.glob("*.nbc")):
            old.unlink(missing_ok=True)
        cache.mkdir(exist_ok=True)
        mark.write_text(stamp)
        if config["progress"] is True:
            print("gpuvec: compiling for this processor, once", file=sys.stderr, flush=True)


def _stamp(folder: Path) -> str:
    seen = zlib.crc32(numba_version.encode())
    for file in sorted(folder.glob("*.py")):
        seen = zlib.crc32(file.name.encode() + file.read_bytes(), seen)
    return f"{seen:08x}"
