"""Users, roles and quotas of a database, as people change them: `db.users`, `db.roles`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import TYPE_CHECKING, Any

from gpuvec import errors
from gpuvec.coord.principals import new_secret
from gpuvec.meta.access import ADMIN, EVERYTHING, LIMITS, Access

if TYPE_CHECKING:
    from gpuvec.api.engine import Engine
    from gpuvec.meta.changes import Change

ACTIONS = (
    "create_user", "drop_user", "set_password", "grant_role", "revoke_role",
    "create_role", "drop_role", "grant", "revoke", "set_quota",
)  # fmt: skip


class AccessControl:
    """Commits what an admin wants. Safe for use by several threads.

    Args:
        engine: of the database.
    """

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine

    def now(self) -> Access:
        """Return users, roles and quotas as the newest log has them."""
        return self._engine.root().access

    def do(self, action: str, arguments: Mapping[str, Any]) -> None:
        """Carry out one of `ACTIONS`; see `gpuvec.coord.principals.Principals`."""
        assert action in ACTIONS, action
        with self._engine.writing():
            decide: Callable[..., list[Change]] = getattr(
                self._engine.names.root.principals(), action
            )
            changes = decide(**arguments)
            if changes:
                self._engine.names.commit(*changes, **self._engine.signature())


@dataclass(frozen=True, slots=True, kw_only=True)
class UserInfo:
    """A user and the roles that it holds."""

    name: str
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleInfo:
    """A role and what it allows: pairs of privilege and collection, `*`: all collections."""

    name: str
    grants: tuple[tuple[str, str], ...]


class Users(Mapping[str, UserInfo]):
    """The users of a database, by name. Made by `db.users`.

    While there are none, whoever reaches the cluster may do everything. The first one becomes an
    admin. They are asked for by clusters and servers; who opens the files needs no leave.
    """

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine

    def create(self, name: str, password: str, *, roles: Sequence[str] = ()) -> None:
        """Make a user.

        Args:
            name: 1 to 255 printable characters, no `/`.
            password: at least 8 characters; only a scrypt secret of it is kept.
            roles: that it holds.

        Raises:
            AlreadyExistsError: `GV-724`, there is one of that name.
            NotFoundError: `GV-723`, a role does not exist.
            QueryError: `GV-727`, a name or password that cannot be.
        """
        roles = (roles,) if isinstance(roles, str) else tuple(roles)
        self._do("create_user", name=name, secret=new_secret(password), roles=roles)

    def drop(self, name: str) -> None:
        """Forget a user; its open connections may do nothing more within seconds.

        Raises:
            NotFoundError: `GV-723`.
            QueryError: `GV-728`, it is the only admin, and there are others.
        """
        self._do("drop_user", name=name)

    def set_password(self, name: str, password: str) -> None:
        """Give a user another password."""
        self._do("set_password", name=name, secret=new_secret(password))

    def grant(self, name: str, role: str) -> None:
        """Let a user hold a role, `admin` for instance."""
        self._do("grant_role", user=name, role=role)

    def revoke(self, name: str, role: str) -> None:
        """Take a role from a user."""
        self._do("revoke_role", user=name, role=role)

    def _do(self, action: str, **arguments: Any) -> None:
        self._engine.access.do(action, arguments)

    def __getitem__(self, name: str) -> UserInfo:
        known = self._engine.access.now().users
        if name not in known:
            raise errors.unknown_principal("user", name, known)
        return UserInfo(name=name, roles=known[name].roles)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._engine.access.now().users))

    def __len__(self) -> int:
        return len(self._engine.access.now().users)

    def __contains__(self, name: object) -> bool:
        return name in self._engine.access.now().users

    def __repr__(self) -> str:
        lines = (f"{user.name} ({', '.join(user.roles) or 'no roles'})" for user in self.values())
        return f"Users({', '.join(lines)})"


class Roles(Mapping[str, RoleInfo]):
    """The roles of a database, by name, without `admin`. Made by `db.roles`."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine

    def create(self, name: str) -> None:
        """Make a role, which may do nothing yet.

        Raises:
            AlreadyExistsError: `GV-724`.
            QueryError: `GV-727`, a name that cannot be.
        """
        self._do("create_role", name=name)

    def drop(self, name: str) -> None:
        """Forget a role; who held it, holds it no more."""
        self._do("drop_role", name=name)

    def grant(self, name: str, privilege: str, collection: str = EVERYTHING) -> None:
        """Let a role do something.

        Args:
            name: of the role.
            privilege: `read`, `write`, `manage` or `create`.
            collection: whose; `*`: all, those to come too. A grant follows renames.

        Raises:
            NotFoundError: `GV-723` no such role, `GV-150` no such collection.
            QueryError: `GV-725`, no such privilege.
        """
        self._do("grant", role=name, privilege=privilege, collection=collection)

    def revoke(self, name: str, privilege: str, collection: str = EVERYTHING) -> None:
        """Take that from a role."""
        self._do("revoke", role=name, privilege=privilege, collection=collection)

    def _do(self, action: str, **arguments: Any) -> None:
        self._engine.access.do(action, arguments)

    def __getitem__(self, name: str) -> RoleInfo:
        root = self._engine.root()
        known = root.access.roles
        if name not in known:
            raise errors.unknown_principal("role", name, [ADMIN, *known])
        grants = tuple(
            (privilege, target if target == EVERYTHING else root.name_of(target) or target)
            for privilege, target in known[name]
        )
        return RoleInfo(name=name, grants=grants)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._engine.access.now().roles))

    def __len__(self) -> int:
        return len(self._engine.access.now().roles)

    def __repr__(self) -> str:
        return f"Roles({', '.join(self)})"


class Quotas(Mapping[str | None, dict[str, float]]):
    """The limits that were set, by collection; None: the default of each. Made by `db.quotas`.

    A write that would lead beyond `rows` or `size_bytes` is refused; rows that replace others count
    as new, and what `bulk_import` brings is not counted before it is there. What comes too fast is
    refused with a time to come back.
    """

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine

    def set(
        self,
        collection: str | None = None,
        *,
        collections: float | EllipsisType | None = ...,
        rows: float | EllipsisType | None = ...,
        size_bytes: float | EllipsisType | None = ...,
        write_rows_per_s: float | EllipsisType | None = ...,
        reads_per_s: float | EllipsisType | None = ...,
    ) -> None:
        """Change limits; None takes one away, and what is left out stays as it is.

        Args:
            collection: whose; None: of each that has no such limit of its own.
            collections: how many the database may have.
            rows: of a collection.
            size_bytes: of a collection's rows, as `stats()` counts them.
            write_rows_per_s: through one client process of a cluster.
            reads_per_s: through one client process of a cluster.

        Raises:
            QueryError: `GV-726`, a limit that is none.
            NotFoundError: `GV-150`, no such collection.
        """
        given = {
            "collections": collections, "rows": rows, "size_bytes": size_bytes,
            "write_rows_per_s": write_rows_per_s, "reads_per_s": reads_per_s,
        }  # fmt: skip
        limits = {name: limit for name, limit in given.items() if limit is not Ellipsis}
        if not limits:
            raise errors.bad_quota(None, None, LIMITS)
        self._engine.access.do("set_quota", {"collection": collection, "limits": limits})

    def _all(self) -> dict[str | None, dict[str, float]]:
        root = self._engine.root()
        return {
            (root.name_of(collection_id) if collection_id else None): dict(limits)
            for collection_id, limits in sorted(root.access.quotas.items())
        }

    def __getitem__(self, collection: str | None) -> dict[str, float]:
        return self._all()[collection]

    def __iter__(self) -> Iterator[str | None]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return f"Quotas({self._all()})"
