"""Checks of a channel's write-ahead log: what is not flushed, fences, the hint, the end."""

from gpuvec.errors import CorruptError, StorageError, UnavailableError, UnsupportedError
from gpuvec.meta.catalog import ChannelState
from gpuvec.storage import keys
from gpuvec.verify.report import Finding, Level, when
from gpuvec.verify.scan import Scan, problem_of
from gpuvec.wal.channel import Channel, Position
from gpuvec.wal.files import FileCursor, Hint, file_key, read_hint
from gpuvec.wal.frame import decode_frame
from gpuvec.wal.log import Tail, read_tail

_RESTORE = "restore this file from a copy of the database"


class ChannelCheck:
    """A check of one channel's log.

    Args:
        scan: of the store.
        channel: to check.
        collection: its name.
        position: reads the manifest to its end.
    """

    def __init__(self, scan: Scan, channel: Channel, collection: str, position: Position) -> None:
        self._scan = scan
        self._channel = channel
        self._collection = collection
        self._position = position

    def check(self, state: ChannelState) -> Tail | None:
        """Read all that is not flushed; return it, None when it cannot be read.

        Args:
            state: of the channel, when its collection's manifest was read.
        """
        tail = self._tail(state)
        found = self._scan.store.list(f"{self._channel.folder}/")
        for key in found:
            name = keys.parse_wal_file(key)
            if name is not None and name[1] == 0:
                self._check_fence(key)
        for lsn in state.fences:
            self._check_flushed_fence(keys.wal_slot(self._channel.folder, lsn))
        for key in found:
            number = keys.parse_number(key) or 0  # 0: an append file or the hint
            if 0 < number <= state.flushed_lsn and number not in state.fences:
                self._check_flushed(key)
        if keys.wal_hint(self._channel.folder) in found:
            self._check_hint()
        if tail is not None and isinstance(tail.cursor, FileCursor) and tail.cursor.spans:
            self._check_end(tail.cursor)
        return tail

    def _tail(self, state: ChannelState) -> Tail | None:
        appendable = self._scan.store.appendable
        procedure = read_tail(
            self._channel.prefix, self._channel.name, self._position, appendable=appendable
        )
        try:
            tail = self._scan.run(procedure)
        except UnavailableError as error:
            self._note(self._channel.folder, error.message, "the next writer decides it")
        except (CorruptError, UnsupportedError) as error:
            code, problem = problem_of(error)
            after = f" after {when(state.flushed_ts)}" if state.flushed_ts else ""
            self._scan.add(
                Finding(
                    level=Level.DAMAGE,
                    key=self._key_of(str(error.details.get("path", ""))),
                    kind="log",
                    problem=problem,
                    code=code,
                    collection=self._collection,
                    affected=f'writes to "{self._collection}"{after} that are in no segment; until '
                    "the file is restored, the collection cannot be opened",
                    rows=None,
                    since=state.flushed_ts + 1,
                    remedy=_RESTORE if isinstance(error, CorruptError) else "upgrade gpuvec",
                )
            )
        else:
            self._count(tail, state.flushed_lsn)
            return tail
        return None

    def _count(self, tail: Tail, flushed_lsn: int) -> None:
        """Note what was read: the newest file, and older ones with groups that are not flushed."""
        if isinstance(tail.cursor, FileCursor):
            for span in tail.cursor.spans:
                if span.last > flushed_lsn or span == tail.cursor.spans[-1]:
                    self._scan.count(span.end)
            return
        for group in tail.groups:
            self._scan.count(sum(record.nbytes for record in group.records))

    def _key_of(self, path: str) -> str:
        """Return the key of a path in an error, which may be that of a local file."""
        at = path.find(self._channel.folder)
        return path[at:] if at >= 0 else self._channel.folder

    def _check_fence(self, key: str) -> None:
        """Check a fence of append files: they tell readers of a take-over that is under way."""
        if broken := self._broken(key):
            self._add_fence(key, *broken)

    def _check_flushed_fence(self, key: str) -> None:
        """Check a fence among slots, which keeps a writer that slept out of collected slots."""
        if broken := self._broken(key, missing=("GV-501", "it is missing")):
            self._add_fence(key, *broken)

    def _check_flushed(self, key: str) -> None:
        """Check a slot whose writes are in segments: nobody reads it again."""
        if broken := self._broken(key):
            code, problem = broken
            self._scan.add(
                Finding(
                    level=Level.HARMLESS,
                    key=key,
                    kind="log",
                    problem=problem,
                    code=code,
                    collection=self._collection,
                    remedy="none needed: what it held is in segments, and a later flush deletes it",
                )
            )

    def _broken(self, key: str, missing: tuple[str, str] | None = None) -> tuple[str, str] | None:
        """Return code and words for what is wrong with a frame; `missing` where there is none."""
        try:
            data = self._scan.get(key)
            if data is None:
                return missing
            decode_frame(key, data)
        except (StorageError, UnsupportedError) as error:
            return problem_of(error)
        return None

    def _add_fence(self, key: str, code: str, problem: str) -> None:
        self._scan.add(
            Finding(
                level=Level.DAMAGE,
                key=key,
                kind="log fence",
                problem=problem,
                code=code,
                collection=self._collection,
                affected="no row; a writer that was replaced might not notice it",
                remedy=f"{_RESTORE}, or be sure that no other process is writing",
            )
        )

    def _check_hint(self) -> None:
        key = keys.wal_hint(self._channel.folder)
        try:
            data = self._scan.get(key)
            hint = self._scan.run(read_hint(self._channel))
        except StorageError as error:
            code, problem = problem_of(error)
        else:
            if data is None or hint != Hint():
                return
            code, problem = "GV-526", "its checksum does not match"
        self._scan.add(
            Finding(
                level=Level.HARMLESS,
                key=key,
                kind="log hint",
                problem=problem,
                code=code,
                collection=self._collection,
                remedy="repair writes it anew; until then nothing tells of a log that was cut",
            )
        )

    def _check_end(self, cursor: FileCursor) -> None:
        """Note bytes at the end of the newest file that are no whole frame."""
        newest = cursor.spans[-1]
        key = file_key(self._channel, newest.file)
        size = self._scan.store.size(key)
        if size is not None and size > newest.end and not self._has_grown(cursor):
            self._note(
                key,
                f"its last {size - newest.end:,} bytes are no whole write",
                "none needed: a write that was cut off was never acknowledged",
            )

    def _has_grown(self, cursor: FileCursor) -> bool:
        """Return whether a writer was just writing there."""
        procedure = read_tail(
            self._channel.prefix,
            self._channel.name,
            self._position,
            appendable=True,
            cursor=cursor,
        )
        return self._scan.run(procedure).cursor != cursor

    def _note(self, key: str, problem: str, remedy: str) -> None:
        self._scan.add(
            Finding(
                level=Level.NOTE,
                key=key,
                kind="log",
                problem=problem,
                collection=self._collection,
                remedy=remedy,
            )
        )
