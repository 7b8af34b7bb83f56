"""What a `Collection` does with versions: list, read, name, compare and bring them back."""

import datetime
from bisect import bisect_right
from collections.abc import Mapping
from numbers import Integral
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from gpuvec import errors
from gpuvec.clock import LOGICAL_BITS, pack_timestamp
from gpuvec.meta.changes import AddPartition, Change, WriteSummary
from gpuvec.meta.changes_versions import DropTag, SetRetention, SetTag
from gpuvec.meta.past import state_at
from gpuvec.meta.retention import created_at, readable
from gpuvec.node.changed import Changed, compare
from gpuvec.types import Timestamp, Version

if TYPE_CHECKING:
    from gpuvec.api.frame import Frame
    from gpuvec.api.past import CollectionAt
    from gpuvec.api.source import CollectionSource, WriteResult
    from gpuvec.meta.catalog import CollectionState

_TABLE = pa.schema(
    [
        ("version", pa.int64()),
        ("time", pa.timestamp("ms", "UTC")),
        ("operation", pa.string()),
        ("inserted", pa.int64()),
        ("updated", pa.int64()),
        ("deleted", pa.int64()),
        ("size_bytes", pa.int64()),
        ("tags", pa.list_(pa.string())),
    ]
)
_LONGEST_TAG = 255


class Versioned:
    """The part of `Collection` that is about versions."""

    _source: "CollectionSource"

    @property
    def version(self) -> Version:
        """The newest version: the timestamp of the newest write."""
        return self._source.engine.snapshot(self._source.collection_id).version

    def versions(self) -> "Frame":
        """Return one row per version, the newest first.

        Columns: `version`, `time`, `operation`, rows `inserted`, `updated` and `deleted`,
        `size_bytes` of what was written, and `tags`. Changes of fields, partitions and time to live
        are versions too; their rows are not counted. Lines of writes are kept for 24 hours, or as
        long as the collection's retention, and 100,000 at most; tagged ones for ever.
        """
        from gpuvec.api.frame import frame

        engine, collection_id = self._source.engine, self._source.collection_id
        lines = engine.channel(collection_id).writes()
        tags = engine.state(collection_id).tags
        return frame(_version_table(lines, tags))

    def at(
        self,
        *,
        version: int | None = None,
        time: "str | datetime.datetime | None" = None,
        tag: str | None = None,
    ) -> "CollectionAt":
        """Return the collection as it was: rows, fields and partitions; give one argument.

        What is returned reads like any collection and never changes; writing to it raises. Rows
        that outlived their time are hidden as they were then. Indexes of today serve where they
        hold the rows.

        It keeps its version, while this process lives, from the retention and from what this
        process vacuums. A `vacuum` of another process may take a version younger than half the
        retention; reads then raise `GV-640`. Tag what must stay.

        Args:
            version: of `versions()`, or what a write returned; any other number stands for the
                newest version up to it. 0 is the collection as it was created.
            time: the newest version of that time: ISO 8601 text or a datetime, UTC if it names no
                zone.
            tag: see `tag`.

        Raises:
            SnapshotExpiredError: `GV-640`, it was forgotten.
            NotFoundError: `GV-641`, `GV-642`, no such version or tag; the collection was not there
                yet.
            QueryError: `GV-644`, none or several arguments, or one that is no version.
        """
        from gpuvec.api.past import CollectionAt, SourceAt

        found = self._resolve(version, time, tag)
        source = SourceAt(self._source.engine, self._source.collection_id, found)
        return CollectionAt(source, self._session)  # type: ignore[attr-defined]

    @property
    def tags(self) -> dict[str, Version]:
        """Name to version of all tags."""
        return dict(sorted(self._source.engine.state(self._source.collection_id).tags.items()))

    def tag(self, name: str, version: int | None = None) -> Version:
        """Give a version a name; it is kept until `untag`, whatever the retention.

        Args:
            name: 1 to 255 characters, no control characters.
            version: the newest one by default.

        Returns:
            The version.

        Raises:
            AlreadyExistsError: `GV-643`, another version has the name.
        """
        _check_tag(name)
        found = self.version if version is None else self._resolve(version, None, None)

        def decide(state: "CollectionState", _: Timestamp) -> list[Change]:
            taken = state.tags.get(name, found)
            if taken != found:
                raise errors.tag_taken(self._source.name, name, version=taken)
            if not readable(state, found):
                raise self._expired(state, found)
            return [] if name in state.tags else [SetTag(name=name, version=found)]

        self._source.engine.change(self._source.collection_id, decide)
        return found

    def untag(self, name: str) -> None:
        """Forget a tag; its version is kept no longer than others.

        Raises:
            NotFoundError: `GV-642`, there is no such tag.
        """

        def decide(state: "CollectionState", _: Timestamp) -> list[Change]:
            if name not in state.tags:
                raise errors.no_such_tag(self._source.name, name, state.tags)
            return [DropTag(name=name)]

        self._source.engine.change(self._source.collection_id, decide)

    def restore(self, *, version: int | None = None, tag: str | None = None) -> "WriteResult":
        """Make the rows those of an older version; what came since stays in the history.

        One atomic write, and one new version: rows come back with the keys and values that they
        had, in their partitions; rows that both versions share are not written again. Fields stay
        as they are now: those added since have their default in rows that come back.

        Args:
            version: of `versions()`.
            tag: see `tag`.

        Raises:
            SnapshotExpiredError: `GV-640`, it was forgotten.
            NotFoundError: `GV-641`, `GV-642`, no such version or tag.
            SchemaError: `GV-647`, it has fields that the collection lacks now.
        """
        engine, collection_id = self._source.engine, self._source.collection_id
        found = self._resolve(version, None, tag)
        wanted = state_at(engine.state(collection_id), found).partitions

        def decide(state: "CollectionState", ts: Timestamp) -> list[Change]:
            lost = sorted(wanted.keys() - state.partitions.keys())
            return [AddPartition(name=name, ts=ts) for name in lost]

        if wanted.keys() - engine.state(collection_id).partitions.keys():
            engine.change(collection_id, decide)
        reply = engine.proxy.restore(self._target(), found)  # type: ignore[attr-defined]
        result: WriteResult = self._result(reply)  # type: ignore[attr-defined]
        return result

    def diff(self, first: int | str, second: "int | str | None" = None) -> "Frame":
        """Return which rows differ between two versions: the primary key and the `change`.

        A row that was written again counts as updated, whatever its values.

        Args:
            first: a version or a tag.
            second: what it became; the newest version by default. It may be the older one.

        Returns:
            Keys in order, `change` is `inserted`, `updated` or `deleted`.

        Raises:
            SnapshotExpiredError: `GV-640`, one of them was forgotten.
            NotFoundError: `GV-641`, `GV-642`, no such version or tag.
        """
        from gpuvec.api.frame import frame

        engine, collection_id = self._source.engine, self._source.collection_id
        found = [self.version if v is None else self._named(v) for v in (first, second)]
        with engine.reading_at(collection_id, found) as (before, after):
            changed = compare(before, after)
            return frame(_diff_table(changed, before.schema.primary_key))

    def set_retention(self, retention: "float | str | datetime.timedelta | None") -> None:
        """Keep every version of this collection at least so long; tagged ones are kept for ever.

        Args:
            retention: seconds, a timedelta, or text such as `7d`, `12h`; None: the setting
                `retention_s`.
        """
        from gpuvec.api.collection import seconds_of

        kept = None if retention is None else seconds_of(retention)
        if retention is not None and kept is None:
            raise errors.bad_retention(retention)

        def decide(_: "CollectionState", __: Timestamp) -> list[Change]:
            return [SetRetention(retention_s=kept)]

        self._source.engine.change(self._source.collection_id, decide)

    # Inside

    def _named(self, version: int | str) -> Version:
        tag = version if isinstance(version, str) else None
        return self._resolve(None if tag is not None else version, None, tag)  # type: ignore[arg-type]

    def _resolve(
        self, version: int | None, time: "str | datetime.datetime | None", tag: object
    ) -> Version:
        """Return the version that is meant, which can be read."""
        engine, collection_id = self._source.engine, self._source.collection_id
        given = [item for item in (version, time, tag) if item is not None]
        if len(given) != 1:
            wanted = "exactly one of version, time and tag"
            raise errors.which_version(wanted, f"{len(given) or 'none'} of them")
        newest = engine.snapshot(collection_id).version
        state = engine.state(collection_id)
        if tag is not None:
            if not isinstance(tag, str) or tag not in state.tags:
                raise errors.no_such_tag(self._source.name, tag, state.tags)
            return state.tags[tag]
        asked = wanted_ts = _timestamp(version) if time is None else _end_of(time)
        if time is not None and wanted_ts >> LOGICAL_BITS <= engine.now_ms():
            wanted_ts = min(wanted_ts, newest)
        if wanted_ts > newest:
            raise errors.no_such_version(self._source.name, wanted_ts, newest=newest)
        if not readable(state, wanted_ts) and asked >= created_at(state):
            raise self._expired(state, wanted_ts)
        if wanted_ts in state.tags.values():
            return wanted_ts
        unsaved = engine.channel(collection_id).unsaved_writes()
        state = engine.state(collection_id)  # after: writes go from there to here
        before = bisect_right(state.history, wanted_ts, key=attrgetter("ts"))
        lines = (*state.history[max(0, before - 1) : before], *unsaved)
        last = max((line.ts for line in lines if line.ts <= wanted_ts), default=None)
        if last is None and 0 < asked < created_at(state):
            raise errors.before_creation(self._source.name, asked, created=created_at(state))
        if not readable(state, wanted_ts):
            raise self._expired(state, wanted_ts)
        return wanted_ts if last is None or not readable(state, last) else last

    def _expired(self, state: "CollectionState", version: Version) -> errors.SnapshotExpiredError:
        return errors.version_expired(
            self._source.name, version, oldest=state.past.forgotten, tags=state.tags
        )


def _check_tag(name: Any) -> None:
    usable = isinstance(name, str) and 1 <= len(name) <= _LONGEST_TAG and name.isprintable()
    if not usable:
        raise errors.bad_tag(name)


def _timestamp(version: Any) -> Timestamp:
    if isinstance(version, bool) or not isinstance(version, Integral) or int(version) < 0:
        raise errors.which_version("a version, which is a whole number", repr(version))
    return int(version)


def _end_of(time: Any) -> Timestamp:
    """Return the last timestamp of a time's millisecond."""
    wanted = 'a time such as "2026-11-01T00:00Z", or a datetime'
    found = time
    if isinstance(time, str):
        try:
            found = datetime.datetime.fromisoformat(time)
        except ValueError:
            raise errors.which_version(wanted, repr(time)) from None
    if not isinstance(found, datetime.datetime) or found != found:  # NaT of pandas is none
        raise errors.which_version(wanted, repr(time))
    if found.tzinfo is None:
        found = found.replace(tzinfo=datetime.UTC)
    return pack_timestamp(max(0, int(found.timestamp() * 1000)) + 1) - 1


def _version_table(lines: list[WriteSummary], tags: Mapping[str, Version]) -> pa.Table:
    """Return the columns of `_TABLE`, the newest version first; one row per request."""
    merged: dict[Any, list[WriteSummary]] = {}
    for line in lines:
        merged.setdefault(line.request_id or line.ts, []).append(line)
    by_version: dict[Version, list[WriteSummary]] = {
        max(line.ts for line in parts): parts for parts in merged.values()
    }
    names: dict[Version, list[str]] = {}
    for name, version in sorted(tags.items()):
        names.setdefault(version, []).append(name)
    versions = sorted({*by_version, *names}, reverse=True)
    found = [by_version.get(version, []) for version in versions]

    def counted(field: str) -> list[int | None]:
        return [
            sum(getattr(line, field) for line in parts) if parts and parts[0].request_id else None
            for parts in found
        ]

    return pa.table(
        {
            "version": versions,
            "time": [version >> LOGICAL_BITS for version in versions],
            "operation": [parts[0].operation if parts else None for parts in found],
            "inserted": counted("inserted"),
            "updated": counted("updated"),
            "deleted": counted("deleted"),
            "size_bytes": counted("size_bytes"),
            "tags": [names.get(version, []) for version in versions],
        },
        schema=_TABLE,
    )


def _diff_table(changed: Changed, key: str) -> pa.Table:
    parts = {
        "inserted": changed.inserted, "updated": changed.updated, "deleted": changed.deleted
    }  # fmt: skip
    keys = pa.concat_arrays(list(parts.values()))
    kinds = np.repeat(list(parts), [len(part) for part in parts.values()])
    table = pa.table({key: keys, "change": pa.array(kinds, pa.string())})
    return table.sort_by(key)
