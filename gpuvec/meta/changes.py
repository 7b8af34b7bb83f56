"""What a manifest entry can change, as typed facts with their JSON form."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, Self

from gpuvec.meta.channel_state import Commits, commits_from_json
from gpuvec.meta.indexes import IndexDefinition, IndexRecord
from gpuvec.schema import FieldType, Schema, field_from_json
from gpuvec.types import ChannelName, RequestId, SegmentId, Timestamp

_KINDS: dict[str, type["Change"]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of a `DatabaseState` or a `CollectionState`.

    A state's `apply` checks the change's conditions: the committer evaluates them on the newest
    state before it commits, so every reader of the log finds them true.
    """

    def __init_subclass__(cls) -> None:
        _KINDS[cls.__name__] = cls

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `change_from_json` makes an equal change."""
        values = {item.name: _plain(getattr(self, item.name)) for item in fields(self)}
        return {"change": type(self).__name__, **values}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make the change that `to_json` wrote."""
        return cls(**{key: value for key, value in data.items() if key != "change"})


def change_from_json(data: Mapping[str, Any]) -> Change:
    """Make the change that `Change.to_json` wrote; `KeyError` for an unknown kind."""
    return _KINDS[data["change"]].from_json(data)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, _WITH_JSON):
        return value.to_json()
    return dict(value) if isinstance(value, Mapping) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRecord:
    """What the manifest knows of one flushed segment."""

    segment_id: SegmentId
    channel: ChannelName
    partition: str
    schema_version: int  # of the collection when its rows were written
    row_count: int
    size_bytes: int
    first_ts: Timestamp  # of the oldest row
    last_ts: Timestamp  # of the newest row
    files: Mapping[
        str, Any
    ]  # keys, lengths, checksums, statistics: see `gpuvec.storage.segment_files`
    deletes: Mapping[str, Any] | None = None  # the newest deletion file, which holds all before it
    indexes: Mapping[str, IndexRecord] = field(default_factory=dict)  # by field
    ts: Timestamp | None = None  # when every row was inserted; None: the files say so of each
    gone_ts: Timestamp | None = None  # when the last row was deleted; None: not all are, or unknown

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal record."""
        values = {item.name: _plain(getattr(self, item.name)) for item in fields(self)}
        values["indexes"] = {name: index.to_json() for name, index in self.indexes.items()}
        for name in ("ts", "gone_ts"):
            if values[name] is None:
                del values[name]
        return values

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make the record that `to_json` wrote, also before there were indexes."""
        indexes = data.get("indexes", {})
        found = {name: IndexRecord.from_json(index) for name, index in indexes.items()}
        return cls(**{**data, "indexes": found})


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteSummary:
    """A flushed write: a line of `versions()`, and the answer to a late retry."""

    ts: Timestamp
    request_id: RequestId
    operation: str
    inserted: int
    updated: int
    deleted: int
    size_bytes: int
    first_auto_id: int | None = None

    def to_json(self) -> list[Any]:
        """Return the values in field order."""
        return list(_summary_values(self))

    @classmethod
    def from_json(cls, data: list[Any]) -> Self:
        """Make the summary that `to_json` wrote."""
        return cls(**dict(zip(_SUMMARY_FIELDS, data, strict=True)))


_WITH_JSON = (Schema, FieldType, SegmentRecord, WriteSummary, IndexDefinition, IndexRecord)
_SUMMARY_FIELDS = tuple(item.name for item in fields(WriteSummary))
_summary_values = attrgetter(*_SUMMARY_FIELDS)


# Changes of a database


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeGeneration(Change):
    """Nothing but the entry's own generation, above all before: a new coordinator rules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantLeases(Change):
    """From here on nodes may hold leases of collections, each for so long; 0: none is out.

    A next coordinator names no new owners until leases of the one before have run out.
    """

    lease_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveTime(Change):
    """Timestamps of nodes stay below `until_ms`; a next coordinator begins there."""

    until_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateCollection(Change):
    """Name a collection whose own log has begun."""

    name: str
    collection_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DropCollection(Change):
    """Forget a collection and the aliases that point to it."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RenameCollection(Change):
    """Give a collection another name; its aliases follow."""

    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAlias(Change):
    """Let `alias` stand for the collection `name`, whatever it stood for."""

    alias: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DropAlias(Change):
    """Forget an alias."""

    alias: str


# Changes of a collection


@dataclass(frozen=True, slots=True, kw_only=True)
class InitCollection(Change):
    """The first change of every collection's log."""

    collection_id: str
    schema: Schema
    channels: tuple[ChannelName, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """See `Change.from_json`."""
        return cls(
            collection_id=data["collection_id"],
            schema=Schema.from_json(data["schema"]),
            channels=tuple(data["channels"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AddField(Change):
    """Add a field at the schema's end; older rows have its default, or null."""

    name: str
    field_type: FieldType
    ts: Timestamp = 0  # from which version on; 0: from all

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """See `Change.from_json`."""
        kind = field_from_json(data["field_type"])
        return cls(name=data["name"], field_type=kind, ts=data.get("ts", 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class DropField(Change):
    """Hide a field; its values stay in the files until compaction."""

    name: str
    ts: Timestamp = 0  # from which version on; 0: in all


@dataclass(frozen=True, slots=True, kw_only=True)
class AddPartition(Change):
    """Make a partition known; one that exists stays as it is."""

    name: str
    ts: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class DropPartition(Change):
    """Hide the rows of a partition that were written up to `ts`."""

    name: str
    ts: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncate(Change):
    """Hide all rows that were written up to `ts`."""

    ts: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTtl(Change):
    """Hide rows `ttl_s` seconds after they were written; None keeps them."""

    ttl_s: float | None
    ts: Timestamp = 0  # from which version on; 0: in all


@dataclass(frozen=True, slots=True, kw_only=True)
class SetEpoch(Change):
    """A new owner claims a channel. Condition: `epoch` is the present one + 1."""

    channel: ChannelName
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Flush(Change):
    """The rows and deletes of log positions `from_lsn` + 1 … `to_lsn` are now in files.

    Conditions: the channel is flushed up to exactly `from_lsn`, its epoch is `epoch`, and no file
    is marked dead.
    """

    channel: ChannelName
    epoch: int
    from_lsn: int
    to_lsn: int
    last_ts: Timestamp  # of the last write flushed
    segments: tuple[SegmentRecord, ...] = ()
    deletes: Mapping[SegmentId, Mapping[str, Any]] = field(default_factory=dict)
    writes: tuple[WriteSummary, ...] = ()
    fences: tuple[int, ...] = ()  # log positions that hold fences; truncation leaves them
    commits: Commits = ()  # of transactions whose commit record is flushed

    def to_json(self) -> dict[str, Any]:
        """See `Change.to_json`; most flushes hold no commits."""
        data = super(Flush, self).to_json()
        return data if self.commits else {k: v for k, v in data.items() if k != "commits"}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """See `Change.from_json`."""
        plain = {key: value for key, value in data.items() if key != "change"}
        plain["segments"] = tuple(SegmentRecord.from_json(item) for item in data["segments"])
        plain["writes"] = tuple(WriteSummary.from_json(item) for item in data["writes"])
        plain["fences"] = tuple(data["fences"])
        plain["commits"] = commits_from_json(data.get("commits", ()))
        return cls(**plain)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetIndex(Change):
    """Want an index of a field, in the place of the one it had. Condition: the field exists.

    Attributes:
        keeps: whether segments keep the index they have until each gets the new one.
    """

    definition: IndexDefinition
    keeps: bool = False

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """See `Change.from_json`."""
        definition = IndexDefinition.from_json(data["definition"])
        return cls(definition=definition, keeps=data.get("keeps", False))


@dataclass(frozen=True, slots=True, kw_only=True)
class DropIndex(Change):
    """Want no index of a field any more. Condition: there is one."""

    field: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AddIndex(Change):
    """An index of a segment is in files; it takes the place of the segment's former one.

    Conditions: the segment is there and has the field, the definition is the field's present one,
    and no file is marked dead.
    """

    segment_id: SegmentId
    record: IndexRecord

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """See `Change.from_json`."""
        return cls(segment_id=data["segment_id"], record=IndexRecord.from_json(data["record"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkDead(Change):
    """No later entry may name these files, so they can be deleted. Condition: none is used."""

    ids: tuple[str, ...]
    time_ms: int = 0  # when they were marked

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """See `Change.from_json`."""
        return cls(ids=tuple(data["ids"]), time_ms=data.get("time_ms", 0))
