"""Files that are not ours: found by a path, URL or glob, read where they lie, never changed.

Local files and those of S3, Google Cloud Storage and Azure are read directly; any other URL is
opened by fsspec. A file is known by its path, length and a tag that changes when it is written
again: the server's entity tag, or the times of the last change, also that which no tool can set.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from gpuvec import errors
from gpuvec.storage.remote_open import SCHEMES, open_backend

_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://(.*)", re.DOTALL)
_MAGIC = re.compile(r"[*?\[]")
_TAGS = ("ETag", "etag", "e_tag", "mtime", "LastModified", "last_modified", "created", "ino")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideFile:
    """One file as it was when it was looked at."""

    path: str
    size_bytes: int
    tag: str  # another one when the file was written again

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the fields."""
        return {"path": self.path, "size_bytes": self.size_bytes, "tag": self.tag}


class Outside(Protocol):
    """Where files lie. Safe for use by several threads."""

    def find(self, pattern: str) -> list[OutsideFile]:
        """Return the files that a path or glob names, sorted by path."""

    def look(self, path: str) -> OutsideFile | None:
        """Return one file as it is now; None when it is gone."""

    def open(self, path: str) -> pa.NativeFile:
        """Open a file for reading at any position."""


def open_outside(pattern: str, options: Mapping[str, Any] | None = None) -> tuple[Outside, str]:
    """Return where the files of a path, URL or glob lie, and the pattern to find them with there.

    Args:
        pattern: a path in which `~` is the home, or a URL, with `*`, `?`, `[…]` and `**`.
        options: those of s3fs, gcsfs, adlfs, or of the fsspec file system; local files have none.

    Raises:
        QueryError: `GV-660`, a scheme that fsspec does not know, or lacks the library for.
        UnsupportedError: `GV-511`, options for local files; those of `open_remote`.
    """
    found = _URL.match(pattern)
    scheme, rest = (found[1].lower(), found[2]) if found else ("file", pattern)
    if scheme == "file":
        if options:
            raise errors.unknown_storage_options(scheme, options)
        return _LocalFiles(), str(Path(rest).expanduser().absolute())
    if scheme in SCHEMES:
        bucket = rest.partition("/")[0]
        backend, where, _ = open_backend(f"{scheme}://{bucket}", scheme, bucket, options)
        return _BucketFiles(backend, where), rest.partition("/")[2]
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(pattern, **{**(options or {})})
    except (ImportError, ValueError, TypeError) as error:
        raise errors.unreachable_files(pattern, error) from error
    return _FsspecFiles(system, scheme), path


def kind_of_place(url: str) -> str:
    """Return which options a URL needs: `s3`, `gs`, `az`, `file`, or its scheme."""
    found = _URL.match(url)
    scheme = found[1].lower() if found else "file"
    return SCHEMES.get(scheme, scheme)


class _LocalFiles:
    """See `Outside`."""

    def find(self, pattern: str) -> list[OutsideFile]:
        if not _MAGIC.search(pattern) or os.path.lexists(pattern):
            found = self.look(pattern)
            return [] if found is None else [found]
        import glob

        looked = (self.look(path) for path in glob.glob(pattern, recursive=True))
        return sorted((file for file in looked if file is not None), key=_by_path)

    def look(self, path: str) -> OutsideFile | None:
        try:
            found = os.stat(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise errors.storage_failed("look at", path, error) from error
        if not Path(path).is_file():
            return None
        tag = f"{found.st_mtime_ns}-{found.st_ctime_ns}-{found.st_ino}"
        return OutsideFile(path=path, size_bytes=found.st_size, tag=tag)

    def open(self, path: str) -> pa.NativeFile:
        try:
            return pa.OSFile(path, "rb")
        except OSError as error:
            raise errors.storage_failed("read", path, error) from error


class _BucketFiles:
    """See `Outside`. Paths begin with the scheme and the bucket."""

    def __init__(self, backend: Any, where: str) -> None:
        self._backend = backend
        self._where = where

    def find(self, pattern: str) -> list[OutsideFile]:
        if not _MAGIC.search(pattern):
            found = self.look(f"{self._where}/{pattern}")
            return [] if found is None else [found]
        import obstore

        fixed = _MAGIC.split(pattern, maxsplit=1)[0].rpartition("/")[0]
        matches = _glob_pattern(pattern).match
        with _asking("list", f"{self._where}/{fixed}"):
            listed = [meta for page in obstore.list(self._backend, fixed or None) for meta in page]
        return sorted((self._file(m) for m in listed if matches(m["path"])), key=_by_path)

    def look(self, path: str) -> OutsideFile | None:
        import obstore

        with _asking("look at", path):
            try:
                return self._file(obstore.head(self._backend, self._key(path)))
            except FileNotFoundError:
                return None

    def open(self, path: str) -> pa.NativeFile:
        import obstore

        with _asking("read", path):
            return pa.PythonFile(
                _Readable(obstore.open_reader(self._backend, self._key(path))), "r"
            )

    def _key(self, path: str) -> str:
        return path.removeprefix(f"{self._where}/")

    def _file(self, meta: Any) -> OutsideFile:
        tag = str(meta.get("e_tag") or meta["last_modified"])
        path = f"{self._where}/{meta['path']}"
        return OutsideFile(path=path, size_bytes=int(meta["size"]), tag=tag)


class _Readable:
    """What Arrow needs of a file, over obstore's, whose `closed` is a method."""

    closed = False

    def __init__(self, file: Any) -> None:
        self.seek, self.tell = file.seek, file.tell
        self._read, self._close = file.read, file.close

    def read(self, size: int = -1) -> bytes:
        return bytes(self._read(size if size >= 0 else None))

    def close(self) -> None:
        self.closed = True
        self._close()


class _FsspecFiles:
    """See `Outside`."""

    def __init__(self, system: Any, scheme: str) -> None:
        self._system = system
        self._scheme = scheme

    def find(self, pattern: str) -> list[OutsideFile]:
        with _asking("list", pattern):
            self._system.invalidate_cache()
            paths = self._system.glob(pattern) if _MAGIC.search(pattern) else [pattern]
        looked = (self.look(self._system.unstrip_protocol(path)) for path in paths)
        return sorted((file for file in looked if file is not None), key=_by_path)

    def look(self, path: str) -> OutsideFile | None:
        with _asking("look at", path):
            try:
                info = self._system.info(self._system._strip_protocol(path))
            except FileNotFoundError:
                return None
        if info.get("type") == "directory" or info.get("size") is None:
            return None
        tag = next((str(info[name]) for name in _TAGS if info.get(name) is not None), "")
        return OutsideFile(path=path, size_bytes=int(info["size"]), tag=tag)

    def open(self, path: str) -> pa.NativeFile:
        with _asking("read", path):
            return pa.PythonFile(self._system.open(self._system._strip_protocol(path), "rb"), "r")


@contextmanager
def _asking(action: str, path: str) -> Iterator[None]:
    """Tell the failures of a file system as ours; a file that is not there goes through."""
    import obstore

    try:
        yield
    except FileNotFoundError:
        raise
    except (obstore.exceptions.BaseError, OSError) as error:
        raise errors.outside_failed(action, path, error) from error


def _by_path(file: OutsideFile) -> str:
    return file.path


def _glob_pattern(pattern: str) -> re.Pattern[str]:
    """Return a glob as a regular expression: `*` and `?` end at slashes, `**/` does not."""
    found, at = "", 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            found, at = found + "(?:.*/)?", at + 3
        elif pattern.startswith("**", at):
            found, at = found + ".*", at + 2
        elif pattern[at] == "[" and "]" in pattern[at + 2 :]:
            end = pattern.index("]", at + 2)
            inner = pattern[at + 1 : end]
            negated = "^" if inner[0] in "!^" else ""
            found += f"[{negated}{re.escape(inner.lstrip('!^')).replace(chr(92) + '-', '-')}]"
            at = end + 1
        else:
            found += {"*": "[^/]*", "?": "[^/]"}.get(pattern[at], re.escape(pattern[at]))
            at += 1
    return re.compile(f"{found}\\Z")
