"""The bytes of manifest entries, checkpoints and hints: JSON with its own checksum at the end."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpuvec.errors import damaged_entry, newer_file
from gpuvec.meta.changes import Change, change_from_json
from gpuvec.storage.checksum import crc32c

FORMAT = 1
_CHECKSUM = b',"crc32c":"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One commit."""

    entry_id: int
    nonce: str
    prev_nonce: str  # of the entry before; "" in the first
    generation: int
    committer: str
    time_ms: int
    changes: tuple[Change, ...]


def encode_entry(entry: Entry) -> bytes:
    """Return an entry's bytes."""
    return _seal(
        {
            "format": FORMAT,
            "id": entry.entry_id,
            "nonce": entry.nonce,
            "prev_nonce": entry.prev_nonce,
            "generation": entry.generation,
            "committer": entry.committer,
            "time_ms": entry.time_ms,
            "changes": [change.to_json() for change in entry.changes],
        }
    )


def decode_entry(key: str, data: bytes) -> Entry:
    """Return the entry in `data`, the bytes of `key`.

    Raises:
        CorruptError: `GV-521`, they are not what was written.
        UnsupportedError: `GV-522`, a newer gpuvec wrote them.
    """
    read = _unseal(key, data)
    try:
        changes = tuple(change_from_json(change) for change in read["changes"])
    except (KeyError, TypeError, ValueError) as error:  # changes or fields not known here
        raise newer_file(key, wanted=FORMAT, got=f"with {error}") from error
    return Entry(
        entry_id=read["id"],
        nonce=read["nonce"],
        prev_nonce=read["prev_nonce"],
        generation=read["generation"],
        committer=read["committer"],
        time_ms=read["time_ms"],
        changes=changes,
    )


def encode_checkpoint(
    entry_id: int, nonce: str, generation: int, time_ms: int, state: Mapping[str, Any]
) -> bytes:
    """Return the bytes that stand for the entries up to `entry_id`, whoever writes them."""
    return _seal(
        {
            "format": FORMAT,
            "id": entry_id,
            "nonce": nonce,
            "generation": generation,
            "time_ms": time_ms,
            "state": state,
        }
    )


def decode_checkpoint(key: str, data: bytes) -> dict[str, Any]:
    """Return what `encode_checkpoint` took. Errors: see `decode_entry`."""
    return _unseal(key, data)


def encode_hint(entry_id: int) -> bytes:
    """Return the bytes that tell readers of an entry's existence."""
    return _seal({"format": FORMAT, "id": entry_id})


def decode_hint(key: str, data: bytes) -> int:
    """Return the number in a hint. Errors: see `decode_entry`."""
    number: int = _unseal(key, data)["id"]
    return number


def _seal(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()[:-1]
    return b'%b%b%08x"}\n' % (text, _CHECKSUM, crc32c([text]))


def _unseal(key: str, data: bytes) -> dict[str, Any]:
    text, found, checksum = data.rpartition(_CHECKSUM)
    if not found or checksum != b'%08x"}\n' % crc32c([text]):
        raise damaged_entry(key, "its checksum does not match")
    value: dict[str, Any] = json.loads(text + b"}")
    if value["format"] > FORMAT:
        raise newer_file(key, wanted=FORMAT, got=value["format"])
    return value
