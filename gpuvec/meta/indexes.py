"""What a manifest keeps of indexes: which are wanted, and what was built for one segment."""

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexDefinition:
    """An index that a field of a collection shall have, in every segment.

    Attributes:
        index_id: its name, never reused: a changed definition has another.
        spec: what to build, as `IndexSpec.to_json` gives it, or `{"kind": "auto"}`.
        recall: that searches want which name none; None for scalar fields.
        k: neighbours for which that is chosen.
        max_memory: bytes that the field's indexes may hold, all segments together; None: no limit.
    """

    index_id: str
    field: str
    spec: Mapping[str, Any]
    recall: float | None = None
    k: int = 10
    max_memory: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal definition."""
        return {**asdict(self), "spec": dict(self.spec)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make the definition that `to_json` wrote."""
        return cls(**data)

    def same_wish(self, other: "IndexDefinition") -> bool:
        """Return whether another definition asks for just the same."""
        return self.to_json() | {"index_id": ""} == other.to_json() | {"index_id": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRecord:
    """An index of one field over all rows of one segment.

    Attributes:
        index_id: its name, never reused.
        definition_id: `IndexDefinition.index_id` of the wish that it fulfils.
        spec: what was built, with every parameter decided.
        files: name to key, length and checksum: see `gpuvec.storage.records.FileRecord`. They may
            lie under another index's name: one that was measured again shares them.
        size_bytes: of all files.
        summary: what was measured, for people: see `gpuvec.node.build`.
    """

    index_id: str
    definition_id: str
    field: str
    spec: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    size_bytes: int = 0
    summary: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal record."""
        return {
            "index_id": self.index_id,
            "definition_id": self.definition_id,
            "field": self.field,
            "spec": dict(self.spec),
            "files": {name: dict(file) for name, file in self.files.items()},
            "size_bytes": self.size_bytes,
            "summary": dict(self.summary),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make the record that `to_json` wrote."""
        return cls(**data)
