"""Changes of a collection that put segments in the place of others, and forget dead files."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from gpuvec.meta.changes import Change, SegmentRecord
from gpuvec.types import SegmentId


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceSegments(Change):
    """The rows of some segments are now in others, or needed by no version.

    Conditions: the inputs are there, no delete was saved in another file meanwhile, and no file
    of an output is marked dead. An index of an output that is no longer wanted is left out.

    Attributes:
        inputs: the segments that go, with the key of the deletion file that was read, or None.
    """

    inputs: Mapping[SegmentId, str | None]
    outputs: tuple[SegmentRecord, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """See `Change.from_json`."""
        outputs = tuple(SegmentRecord.from_json(item) for item in data["outputs"])
        return cls(inputs=data["inputs"], outputs=outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetDead(Change):
    """These dead files are gone, and nobody is left who could name them."""

    ids: tuple[str, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """See `Change.from_json`."""
        return cls(ids=tuple(data["ids"]))
