"""What the database's log folds into: names of collections, users, how far time was reserved."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from gpuvec.errors import manifest_conflict
from gpuvec.meta import access, changes
from gpuvec.meta.access import Access
from gpuvec.meta.changes import Change


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseState:
    """The collections of a database, by name, and how long leases of them may be out."""

    collections: Mapping[str, str] = field(default_factory=dict)  # name to collection id
    aliases: Mapping[str, str] = field(default_factory=dict)  # alias to name
    lease_s: float = 0.0  # after the end of who ruled last; 0: no node holds any
    reserved_ms: int = 0  # timestamps of nodes are below it
    access: Access = field(default_factory=Access)  # users, roles, quotas

    def resolve(self, name: str) -> str | None:
        """Return the id of the collection that a name or an alias stands for."""
        return self.collections.get(self.aliases.get(name, name))

    def apply(self, change: Change) -> Self:
        """Return the state after a change; `ConflictError` GV-525 when it cannot be."""
        if isinstance(change, access.CHANGES):
            return replace(self, access=self.access.apply(change))
        collections, aliases = dict(self.collections), dict(self.aliases)
        match change:
            case changes.TakeGeneration():
                return self
            case changes.GrantLeases():
                return replace(self, lease_s=change.lease_s)
            case changes.ReserveTime():
                return replace(self, reserved_ms=change.until_ms)
            case changes.CreateCollection():
                self._check_free(change.name)
                collections[change.name] = change.collection_id
            case changes.DropCollection():
                self._check_known(change.name)
                rights = self.access.dropped(collections.pop(change.name))
                aliases = {alias: name for alias, name in aliases.items() if name != change.name}
                return replace(self, collections=collections, aliases=aliases, access=rights)
            case changes.RenameCollection():
                self._check_known(change.old)
                self._check_free(change.new)
                collections[change.new] = collections.pop(change.old)
                renamed = {change.old: change.new}
                aliases = {alias: renamed.get(name, name) for alias, name in aliases.items()}
            case changes.SetAlias():
                self._check_known(change.name)
                if change.alias in collections:
                    raise manifest_conflict(f'"{change.alias}" is the name of a collection')
                aliases[change.alias] = change.name
            case changes.DropAlias():
                if aliases.pop(change.alias, None) is None:
                    raise manifest_conflict(f'there is no alias "{change.alias}"')
            case _:
                raise AssertionError(f"a database cannot apply {type(change).__name__}")
        return replace(self, collections=collections, aliases=aliases)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal state."""
        return {
            "collections": dict(self.collections),
            "aliases": dict(self.aliases),
            "lease_s": self.lease_s,
            "reserved_ms": self.reserved_ms,
            "access": self.access.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make the state that `to_json` wrote."""
        found = Access.from_json(data["access"]) if "access" in data else Access()
        return cls(**{**data, "access": found})

    def _check_free(self, name: str) -> None:
        if name in self.collections or name in self.aliases:
            raise manifest_conflict(f'the name "{name}" is taken')

    def _check_known(self, name: str) -> None:
        if name not in self.collections:
            raise manifest_conflict(f'there is no collection "{name}"')
