"""What an index shall be: frozen parameters, checked when made, JSON both ways."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from gpuvec.errors import unknown_index, unknown_index_option


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSpec:
    """Base of all specs: the parameters of one index type."""

    KIND: ClassVar[str] = ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `spec_from_json` makes an equal spec."""
        return {"kind": self.KIND, **{f.name: getattr(self, f.name) for f in fields(self)}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flat(IndexSpec):
    """Exact search: every row is measured. What a vector field has when no index is made."""

    KIND = "flat"


SPECS: dict[str, type[IndexSpec]] = {cls.KIND: cls for cls in (Flat,)}


def spec_from_json(data: Mapping[str, Any]) -> IndexSpec:
    """Make the spec that `IndexSpec.to_json` wrote.

    Raises:
        QueryError: `GV-315` no such index type, `GV-316` it has no such parameter.
    """
    kind = data.get("kind")
    if kind not in SPECS:
        raise unknown_index(kind, SPECS)
    cls = SPECS[kind]
    known = [f.name for f in fields(cls)]
    options = {name: value for name, value in data.items() if name != "kind"}
    for name in options:
        if name not in known:
            raise unknown_index_option(kind, name, known)
    return cls(**options)
