"""What an admin wants with users, roles and quotas, as changes of the catalogue or as errors.

Decides only; `gpuvec.api.access` commits. What is so already needs no change, so a call that is
made twice does no harm.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from gpuvec import errors
from gpuvec.coord.passwords import make_secret
from gpuvec.meta.access import (
    ADMIN,
    EVERYTHING,
    LIMITS,
    PRIVILEGES,
    Access,
    DropRole,
    DropUser,
    SetQuota,
    SetRole,
    SetUser,
    User,
)
from gpuvec.meta.changes import Change

_LEAST_PASSWORD = 8
_LONGEST = 255


class Names(Protocol):
    """Finds collections; see `RootCoord`."""

    def resolve(self, name: Any) -> tuple[str, str]:
        """Return name and id."""


class Principals:
    """Decides about one state of the catalogue.

    Args:
        access: users, roles and quotas as they are.
        names: of collections.
    """

    def __init__(self, access: Access, names: Names) -> None:
        self._access = access
        self._names = names

    def create_user(self, name: str, secret: str, roles: Sequence[str]) -> list[Change]:
        """Return what makes a user; the first one becomes an admin.

        Args:
            name: must be free.
            secret: of the password; see `new_secret`.
            roles: that exist.
        """
        _check_name("a user", name)
        if name in self._access.users:
            raise errors.principal_exists("user", name)
        held = [self._role(role) for role in roles]
        if not self._access.users and ADMIN not in held:
            held.append(ADMIN)
        return [SetUser(name=name, secret=secret, roles=tuple(sorted(set(held))))]

    def drop_user(self, name: str) -> list[Change]:
        """Return what forgets a user."""
        self._user(name)
        if len(self._access.users) > 1:
            self._keep_admin(name)
        return [DropUser(name=name)]

    def set_password(self, name: str, secret: str) -> list[Change]:
        """Return what gives a user another password."""
        return [SetUser(name=name, secret=secret, roles=self._user(name).roles)]

    def grant_role(self, user: str, role: str) -> list[Change]:
        """Return what lets a user hold a role."""
        known = self._user(user)
        roles = tuple(sorted({*known.roles, self._role(role)}))
        return _unless_same(SetUser(name=user, secret=known.secret, roles=roles), known.roles)

    def revoke_role(self, user: str, role: str) -> list[Change]:
        """Return what takes a role from a user."""
        known = self._user(user)
        if self._role(role) == ADMIN and ADMIN in known.roles:
            self._keep_admin(user)
        roles = tuple(held for held in known.roles if held != role)
        return _unless_same(SetUser(name=user, secret=known.secret, roles=roles), known.roles)

    def create_role(self, name: str) -> list[Change]:
        """Return what makes a role, which may do nothing yet."""
        _check_name("a role", name)
        if name == ADMIN or name in self._access.roles:
            raise errors.principal_exists("role", name)
        return [SetRole(name=name)]

    def drop_role(self, name: str) -> list[Change]:
        """Return what forgets a role."""
        self._own_role(name)
        return [DropRole(name=name)]

    def grant(self, role: str, privilege: str, collection: str) -> list[Change]:
        """Return what lets a role do something with a collection, `*`: with all."""
        grants = self._own_role(role)
        wanted = (_privilege(privilege), self._target(collection))
        return [] if wanted in grants else [SetRole(name=role, grants=(*grants, wanted))]

    def revoke(self, role: str, privilege: str, collection: str) -> list[Change]:
        """Return what takes that from a role."""
        grants = self._own_role(role)
        gone = (_privilege(privilege), self._target(collection))
        left = tuple(grant for grant in grants if grant != gone)
        return [] if left == grants else [SetRole(name=role, grants=left)]

    def set_quota(self, collection: str | None, limits: Mapping[str, float | None]) -> list[Change]:
        """Return what changes limits of a collection, or of all; None takes a limit away."""
        collection_id = "" if collection is None else self._names.resolve(collection)[1]
        held = dict(self._access.quotas.get(collection_id, {}))
        for what, limit in limits.items():
            usable = [name for name in LIMITS if not (collection_id and name == "collections")]
            if what not in usable or not _is_limit(limit):
                raise errors.bad_quota(what, limit, usable)
            held.pop(what, None)
            if limit is not None:
                held[what] = limit
        if held == self._access.quotas.get(collection_id, {}):
            return []
        return [SetQuota(collection_id=collection_id, limits=held)]

    def _user(self, name: Any) -> User:
        found = self._access.users.get(name) if isinstance(name, str) else None
        if found is None:
            raise errors.unknown_principal("user", name, self._access.users)
        return found

    def _role(self, name: Any) -> str:
        if name not in (ADMIN, *self._access.roles):
            raise errors.unknown_principal("role", name, (ADMIN, *self._access.roles))
        return str(name)

    def _own_role(self, name: Any) -> tuple[tuple[str, str], ...]:
        if self._role(name) == ADMIN:
            raise errors.bad_principal("a changed role", ADMIN, "it is fixed")
        return self._access.roles[name]

    def _target(self, collection: str) -> str:
        return EVERYTHING if collection == EVERYTHING else self._names.resolve(collection)[1]

    def _keep_admin(self, but: str) -> None:
        others = (user for name, user in self._access.users.items() if name != but)
        if not any(ADMIN in user.roles for user in others):
            raise errors.last_admin(but)


def new_secret(password: Any) -> str:
    """Return the secret of a password that may be one.

    Raises:
        QueryError: `GV-727`.
    """
    if not isinstance(password, str) or len(password) < _LEAST_PASSWORD:
        raise errors.bad_principal("a password", None, "it is too short, or no text")
    return make_secret(password)


def _check_name(what: str, name: Any) -> None:
    usable = isinstance(name, str) and 0 < len(name) <= _LONGEST and name.isprintable()
    if not usable or "/" in name or name == EVERYTHING:
        raise errors.bad_principal(what, name, "it is no usable name")


def _privilege(name: Any) -> str:
    if name not in PRIVILEGES:
        raise errors.bad_privilege(name, PRIVILEGES)
    return str(name)


def _is_limit(limit: Any) -> bool:
    number = isinstance(limit, int | float) and not isinstance(limit, bool)
    return limit is None or (number and 0 <= limit < float("inf"))


def _unless_same(change: SetUser, roles: tuple[str, ...]) -> list[Change]:
    return [] if change.roles == roles else [change]
