"""Objects in S3, Google Cloud Storage and Azure, through obstore.

Objects that `put_if_absent` creates, log entries among them, are one request each: servers promise
the condition for those alone. Larger ones that `put` writes go up in parts, and appear whole.

A request that met no answer, a 5xx or a dropped connection is sent again by obstore, after growing
pauses with jitter, `RETRIES` times at most. It may then meet its own first try and say "exists":
what a key holds is only known by reading it, as the procedures do.
"""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from gpuvec import errors, telemetry
from gpuvec.storage.cache import Write
from gpuvec.storage.checksum import as_bytes
from gpuvec.storage.keys import check_key, check_prefix, is_key
from gpuvec.storage.network import NetworkStore
from gpuvec.storage.object_store import Buffer

PART_BYTES = 16 << 20  # of uploads and downloads that go in parts
RETRIES = 5  # about 3 s of pauses in all
RETRY: dict[str, Any] = {
    "max_retries": RETRIES,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=3),
        "base": 3,
    },
}
_THREADS = 8  # of one large download
_PEEK = 100
_RETRIED = re.compile(r"\bretries: (\d+)")
_QUERY = re.compile(r"(https?://[^\s?]+)\?\S+")  # it may hold a signature
_DENIED = re.compile(r"status code: 40[13]\b")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")


class RemoteStore(NetworkStore):
    """See `NetworkStore`.

    Args:
        backend: an obstore store, whose prefix is the database's.
        where: its URL, for messages.
        identity: the same for two stores of one place, whatever they were opened with.
    """

    def __init__(self, backend: Any, where: str, *, identity: str) -> None:
        import obstore

        super().__init__(where, identity=identity)
        self._obstore = obstore
        self._backend = backend

    def _whole(self, key: str) -> bytes:
        """Fetch an object, a large one in parts, several at a time."""
        with self._asked("read", key):
            found = self._obstore.get(self._backend, key)
            size = int(found.meta["size"])
            if size <= PART_BYTES:
                return bytes(found.bytes())
            del found  # ends the request
        starts = range(0, size, PART_BYTES)
        lengths = [min(PART_BYTES, size - start) for start in starts]
        with ThreadPoolExecutor(_THREADS) as pool:
            return b"".join(pool.map(self._range, [key] * len(lengths), starts, lengths))

    def fetch(self, key: str, length: int, write: Write) -> None:
        """See `Fetching.fetch`: one request, or one for each part."""
        if length <= PART_BYTES:
            with self._asked("read", check_key(key)):
                data = bytes(self._obstore.get(self._backend, key).bytes())
            if len(data) != length:
                raise errors.object_too_short(self._path(key), wanted=length, got=len(data))
            write(0, data)
            return

        def part(start: int) -> None:
            write(start, self._range(key, start, min(PART_BYTES, length - start)))

        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(part, range(0, length, PART_BYTES)))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `ObjectStore.get_range`."""
        check_key(key)
        if length:
            return bytes(self._range(key, start, length))
        self._check_length(key, start)
        return b""

    def size(self, key: str) -> int | None:
        """See `ObjectStore.size`."""
        with self._asked("look at", check_key(key)):
            try:
                return int(self._obstore.head(self._backend, key)["size"])
            except FileNotFoundError as error:
                if _no_bucket(error):
                    raise
                return None

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """See `ObjectStore.put`. The parts are written from where they lie, a few at a time."""
        self._ahead.forget()
        views = [as_bytes(part) for part in parts]
        with self._asked("write", check_key(key)):
            if sum(map(len, views)) <= PART_BYTES:
                self._obstore.put(self._backend, key, b"".join(views), use_multipart=False)
            else:
                pieces = (view for view in views if len(view))
                self._obstore.put(self._backend, key, pieces, chunk_size=PART_BYTES)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.put_if_absent`.

        Raises:
            StorageError: `GV-532`, also when the server says that another creates the same key just
                now, and none is there afterwards.
        """
        if not data:
            raise AssertionError(f"{key}: an empty object cannot be created")
        self._ahead.forget()
        with self._asked("create", check_key(key)):
            try:
                self._obstore.put(self._backend, key, data, mode="create", use_multipart=False)
            except self._obstore.exceptions.AlreadyExistsError as error:
                if self.size(key) is None:
                    raise errors.create_undecided(self._path(key), _first_line(error)) from error
                return False
            return True

    def _listed(self, prefix: str, start_after: str) -> list[str]:
        folder = check_prefix(prefix).rpartition("/")[0] or None
        offset = start_after if start_after > (folder or "") else ""  # servers want it below
        with self._asked("list", prefix):
            found = [
                str(entry["path"])
                for entries in self._obstore.list(
                    self._backend, folder, offset=offset or None, chunk_size=1000
                )
                for entry in entries
            ]
        return sorted(k for k in found if k.startswith(prefix) and k > start_after and is_key(k))

    def delete(self, keys: Sequence[str]) -> None:
        """See `ObjectStore.delete`."""
        self._ahead.forget()
        wanted = sorted({check_key(key) for key in keys})
        if not wanted:
            return
        with self._asked("delete", wanted[0]):
            try:
                self._obstore.delete(self._backend, wanted)
            except FileNotFoundError as error:
                if _no_bucket(error):
                    raise
                self._delete_each(wanted)

    def _delete_each(self, keys: Sequence[str]) -> None:
        """Delete objects where the server calls a missing one an error."""
        for key in keys:
            try:
                self._obstore.delete(self._backend, key)
            except FileNotFoundError:
                continue

    def peek(self) -> Sequence[str]:
        """Return some names at the top, whoever wrote them."""
        with self._asked("list", ""):
            entries = next(iter(self._obstore.list(self._backend, chunk_size=_PEEK)), [])
        return sorted({str(entry["path"]).partition("/")[0] for entry in entries})

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the names of the folders directly below one."""
        with self._asked("list", prefix):
            found = self._obstore.list_with_delimiter(self._backend, check_key(prefix))
        return sorted(str(path).rpartition("/")[2] for path in found["common_prefixes"])

    def _range(self, key: str, start: int, length: int) -> memoryview:
        with self._asked("read", key):
            try:
                got = self._obstore.get_range(self._backend, key, start=start, length=length)
            except self._obstore.exceptions.GenericError:  # beyond the end
                self._check_length(key, start + length)
                raise
        found = memoryview(got)
        if len(found) != length:
            wanted = start + length
            raise errors.object_too_short(self._path(key), wanted=wanted, got=start + len(found))
        return found

    def _check_length(self, key: str, wanted: int) -> None:
        size = self.size(key)
        if size is None:
            raise errors.missing_object(self._path(key))
        if size < wanted:
            raise errors.object_too_short(self._path(key), wanted=wanted, got=size)

    @contextmanager
    def _asked(self, action: str, key: str) -> Iterator[None]:
        """Say what a request wanted, when it fails."""
        kinds = self._obstore.exceptions
        path = self._path(key)
        try:
            yield
        except errors.GpuvecError:
            raise
        except (kinds.BaseError, OSError, ValueError) as error:
            raise self._failure(action, path, error) from error

    def _failure(self, action: str, path: str, error: Exception) -> errors.StorageError:
        kinds = self._obstore.exceptions
        denied = (kinds.PermissionDeniedError, kinds.UnauthenticatedError, PermissionError)
        text, cause = str(error), _first_line(error)
        if isinstance(error, denied) or _DENIED.search(text):
            return errors.store_access_denied(action, path, cause)
        if _no_bucket(error) or (isinstance(error, FileNotFoundError) and action != "read"):
            return errors.no_bucket(self._where, cause)
        if isinstance(error, FileNotFoundError):
            return errors.missing_object(path)
        found = _RETRIED.search(text)
        retries = int(found[1]) if found else 0
        telemetry.STORE_RETRIES.add(retries)
        return errors.store_failed(action, path, cause, attempts=1 + retries)


def _first_line(error: Exception) -> str:
    """Return what an error says, without what only obstore's authors need, and without secrets."""
    text = str(error).partition("\n\nDebug source")[0]
    return _QUERY.sub(r"\1?…", " ".join(text.split()))[:500]


def _no_bucket(error: Exception) -> bool:
    return _NO_BUCKET.search(str(error)) is not None
