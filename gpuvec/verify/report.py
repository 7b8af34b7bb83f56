"""What was found wrong in a database, and what it means for rows and versions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from gpuvec.clock import unpack_timestamp
from gpuvec.types import Timestamp

NOTHING = "nothing"


class Level(Enum):
    """What a finding means."""

    DAMAGE = "damage"  # something cannot be read, or is no longer safe
    HARMLESS = "harmless"  # a broken file that nothing rests on
    NOTE = "note"  # nothing is broken


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One file, and what is wrong with it.

    Attributes:
        key: of the file in the store; a folder where it is not known which file.
        kind: what the file is.
        problem: what is wrong.
        code: of the error that a read of the file raises; "" for notes.
        collection: its name, or its id where the name is unknown; "" for the database's own files.
        field: whose index it is; "" for other files.
        affected: what of the database, in words.
        rows: rows that cannot be read; None: unknown.
        since: the first version that is affected; None: all, or none.
        remedy: what to do.
        repaired: whether this run did it.
    """

    level: Level
    key: str
    kind: str
    problem: str
    code: str = ""
    collection: str = ""
    field: str = ""
    affected: str = NOTHING
    rows: int | None = 0
    since: Timestamp | None = None
    remedy: str = ""
    repaired: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the finding as a JSON object."""
        return {**asdict(self), "level": self.level.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The state of a database.

    Attributes:
        findings: damage first.
        files: that were read and compared.
        size_bytes: of them.
        rows: in the segments that the manifests name, deleted ones too.
        orphans: files that nothing names, left to collection.
    """

    path: str
    collections: int
    files: int
    size_bytes: int
    rows: int
    orphans: int
    orphan_bytes: int
    findings: Sequence[Finding]

    @property
    def is_sound(self) -> bool:
        """Whether every file is as it was written; broken ones that were repaired do not count."""
        broken = (f for f in self.findings if f.level is not Level.NOTE)
        return all(finding.repaired for finding in broken)

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        found = [finding.to_json() for finding in self.findings]
        return {**asdict(self), "sound": self.is_sound, "findings": found}


def when(version: Timestamp) -> str:
    """Return the time of a version, for people."""
    ms, _ = unpack_timestamp(version)
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"
