"""The front door of writes: checks what comes in, sends it to the channel's owner, waits."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from gpuvec.ingest import validate_rows
from gpuvec.messages import (
    Change,
    DeleteRows,
    InsertRows,
    OnConflict,
    RestoreRows,
    UpdateRows,
    WriteReply,
    WriteRequest,
)
from gpuvec.rows import Rows
from gpuvec.schema import Schema
from gpuvec.types import RequestId, Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The collection that a write is for, as the caller knows it."""

    collection_id: str
    schema: Schema
    schema_version: int


class Proxy:
    """Validates writes and brings them to their owner.

    Args:
        send: brings a request to the owner of its channel, and its answer back.
    """

    def __init__(self, send: Callable[[WriteRequest], WriteReply]) -> None:
        self._send_request = send

    def insert(
        self,
        target: Target,
        rows: Rows,
        *,
        partition: str,
        on_conflict: OnConflict,
        on_bad_vectors: str,
    ) -> WriteReply:
        """Add rows whose keys must be new, or are skipped, or replaced."""
        checked = validate_rows(target.schema, rows, on_bad_vectors=on_bad_vectors)
        change = InsertRows(
            rows=checked,
            schema_version=target.schema_version,
            partition=partition,
            on_conflict=on_conflict,
        )
        return self._send(target, "insert", change)

    def upsert(
        self, target: Target, rows: Rows, *, partition: str, on_bad_vectors: str
    ) -> WriteReply:
        """Add rows, or replace those with the same key; the last of a batch wins."""
        checked = validate_rows(
            target.schema, rows, on_bad_vectors=on_bad_vectors, on_duplicate="last"
        )
        change = InsertRows(
            rows=checked,
            schema_version=target.schema_version,
            partition=partition,
            on_conflict=OnConflict.REPLACE,
        )
        return self._send(target, "upsert", change)

    def update(self, target: Target, values: Mapping[str, Any], condition: Any) -> WriteReply:
        """Set fields of the rows that pass a filter."""
        return self._send(target, "update", UpdateRows(values=dict(values), filter=condition))

    def delete(
        self, target: Target, *, condition: Any = None, keys: pa.Array | None = None
    ) -> WriteReply:
        """Delete the rows that pass a filter, or those with the given keys."""
        return self._send(target, "delete", DeleteRows(filter=condition, keys=keys))

    def restore(self, target: Target, version: Version) -> WriteReply:
        """Make the rows those of an older version."""
        return self._send(target, "restore", RestoreRows(version=version))

    def _send(self, target: Target, operation: str, change: Change) -> WriteReply:
        request = WriteRequest(
            collection_id=target.collection_id,
            request_id=RequestId(secrets.token_hex(16)),
            operation=operation,
            change=change,
        )
        return self._send_request(request)
