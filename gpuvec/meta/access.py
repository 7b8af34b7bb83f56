"""Who may do what in a database, and how much: the part of the catalogue, and what changes it.

A user holds roles; a role holds *grants*, each a privilege on one collection or on all. The role
`admin` may do everything. Quotas hold for one collection, or as a default for each.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from gpuvec.errors import manifest_conflict
from gpuvec.meta.changes import Change

PRIVILEGES = {
    "read": "search and read rows",
    "write": "insert, upsert, update, delete, import, restore, truncate",
    "manage": "fields, indexes, upkeep, tags; rename, alias and drop the collection",
    "create": "make collections",
}
ADMIN = "admin"  # a role that cannot be changed: everything, and users, roles and quotas
EVERYTHING = "*"  # as a collection of a grant: all, those to come too
LIMITS = {
    "collections": "collections of the database",
    "rows": "rows of a collection",
    "size_bytes": "bytes of a collection's rows",
    "write_rows_per_s": "rows written in a second through one client process",
    "reads_per_s": "reads in a second through one client process",
}

Grant = tuple[str, str]  # privilege, collection id or `EVERYTHING`


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUser(Change):
    """Let a user be as this says, new or not.

    Attributes:
        secret: of the password; see `gpuvec.coord.passwords`.
    """

    name: str
    secret: str
    roles: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """See `Change.from_json`."""
        return cls(name=data["name"], secret=data["secret"], roles=tuple(data["roles"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class DropUser(Change):
    """Forget a user."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRole(Change):
    """Let a role be as this says, new or not."""

    name: str
    grants: tuple[Grant, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """See `Change.from_json`."""
        return cls(name=data["name"], grants=_grants(data["grants"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class DropRole(Change):
    """Forget a role; who held it, holds it no more."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetQuota(Change):
    """Let these limits hold, and no others.

    Attributes:
        collection_id: "": the default of all.
    """

    collection_id: str
    limits: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """One user, as the catalogue has it."""

    secret: str
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Users, roles and quotas of a database. Without users anybody may do everything."""

    users: Mapping[str, User] = field(default_factory=dict)
    roles: Mapping[str, tuple[Grant, ...]] = field(default_factory=dict)
    quotas: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def is_admin(self, user: str) -> bool:
        """Return whether a user may do everything; all may where there are no users."""
        return not self.users or (user in self.users and ADMIN in self.users[user].roles)

    def may(self, user: str, privilege: str, collection_id: str = EVERYTHING) -> bool:
        """Return whether a user may do something with a collection, or with all."""
        if self.is_admin(user):
            return True
        known = self.users.get(user)
        if known is None:
            return False
        wanted = {(privilege, EVERYTHING), (privilege, collection_id)}
        return any(wanted.intersection(self.roles.get(role, ())) for role in known.roles)

    def limit(self, what: str, collection_id: str = "") -> float | None:
        """Return a limit of a collection, or the default; None: there is none."""
        own = self.quotas.get(collection_id, {})
        return own.get(what, self.quotas.get("", {}).get(what))

    def apply(self, change: Change) -> "Access":
        """Return what a change makes of it; `ConflictError` GV-525 when it cannot be."""
        users, roles, quotas = dict(self.users), dict(self.roles), dict(self.quotas)
        match change:
            case SetUser():
                users[change.name] = User(secret=change.secret, roles=change.roles)
            case DropUser():
                _pop(users, change.name, "user")
            case SetRole():
                roles[change.name] = change.grants
            case DropRole():
                _pop(roles, change.name, "role")
                users = {name: _without(user, change.name) for name, user in users.items()}
            case SetQuota():
                quotas.pop(change.collection_id, None)
                if change.limits:
                    quotas[change.collection_id] = dict(change.limits)
            case _:
                raise AssertionError(f"a database cannot apply {type(change).__name__}")
        return Access(users=users, roles=roles, quotas=quotas)

    def dropped(self, collection_id: str) -> "Access":
        """Return what is left when a collection is gone."""
        if collection_id not in self.quotas and not any(
            target == collection_id for grants in self.roles.values() for _, target in grants
        ):
            return self
        roles = {
            name: tuple(grant for grant in grants if grant[1] != collection_id)
            for name, grants in self.roles.items()
        }
        quotas = {name: limits for name, limits in self.quotas.items() if name != collection_id}
        return replace(self, roles=roles, quotas=quotas)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal value."""
        return {
            "users": {n: {"secret": u.secret, "roles": [*u.roles]} for n, u in self.users.items()},
            "roles": {name: [[*grant] for grant in grants] for name, grants in self.roles.items()},
            "quotas": {name: dict(limits) for name, limits in self.quotas.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make the value that `to_json` wrote."""
        return cls(
            users={
                name: User(secret=user["secret"], roles=tuple(user["roles"]))
                for name, user in data["users"].items()
            },
            roles={name: _grants(grants) for name, grants in data["roles"].items()},
            quotas=data["quotas"],
        )


CHANGES = (SetUser, DropUser, SetRole, DropRole, SetQuota)


def _grants(data: Any) -> tuple[Grant, ...]:
    return tuple((privilege, target) for privilege, target in data)


def _without(user: User, role: str) -> User:
    return replace(user, roles=tuple(name for name in user.roles if name != role))


def _pop(known: dict[str, Any], name: str, what: str) -> None:
    if known.pop(name, None) is None:
        raise manifest_conflict(f'there is no {what} "{name}"')
