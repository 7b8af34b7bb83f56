"""72x: users, roles, privileges and quotas."""

from collections.abc import Iterable
from typing import Any

from gpuvec.errors.base import (
    AccessDeniedError,
    AlreadyExistsError,
    NotFoundError,
    QueryError,
    QuotaError,
    did_you_mean,
)


def not_admitted(user: str) -> AccessDeniedError:
    """Return the error for a name or a password that is wrong, without telling which."""
    who = f'"{user}"' if user else "a client that gave no user"
    return AccessDeniedError(
        "GV-720",
        f"{who} is not let in: the database has users, and this is no name and password of one",
        hint='connect with user="…", password="…"',
        details={"user": user},
    )


def not_allowed(user: str, privilege: str, what: str) -> AccessDeniedError:
    """Return the error for what a user's roles do not allow."""
    return AccessDeniedError(
        "GV-721",
        f'user "{user}" lacks the privilege "{privilege}" for {what}',
        hint=f'an admin can give it: db.roles.grant("a role", "{privilege}", …)',
        details={"user": user, "privilege": privilege, "what": what},
    )


def quota_reached(what: str, name: str, *, limit: float, there: float, more: float) -> QuotaError:
    """Return the error for a write or a creation that a quota does not allow."""
    return QuotaError(
        "GV-722",
        f"{name} may have {limit:,.0f} {what}; there are {there:,.0f}, and {more:,.0f} more came",
        hint="nothing was done. Delete some, or have the quota raised: db.quotas.set",
        details={
            "what": what, "name": name, "limit": limit, "there": there, "more": more,
            "retryable": False, "outcome": "none",
        },
    )  # fmt: skip


def unknown_principal(what: str, name: Any, known: Iterable[str]) -> NotFoundError:
    """Return the error for a user or role that does not exist."""
    names = sorted(known)
    return NotFoundError(
        "GV-723",
        f"there is no {what} {name!r}.{did_you_mean(str(name), names)}",
        hint=f"there are: {', '.join(names) or 'none'}",
        details={"what": what, "name": name, "known": names},
    )


def principal_exists(what: str, name: str) -> AlreadyExistsError:
    """Return the error for a user or role whose name is taken."""
    return AlreadyExistsError(
        "GV-724",
        f'there is a {what} "{name}" already',
        hint="choose another name, or change what is there",
        details={"what": what, "name": name},
    )


def bad_privilege(got: Any, known: Iterable[str]) -> QueryError:
    """Return the error for a privilege that is none."""
    names = list(known)
    return QueryError(
        "GV-725",
        f"{got!r} is no privilege.{did_you_mean(str(got), names)}",
        hint=f"privileges: {', '.join(names)}",
        details={"got": got, "known": names},
    )


def bad_quota(what: Any, got: Any, known: Iterable[str]) -> QueryError:
    """Return the error for a limit that is none."""
    names = list(known)
    return QueryError(
        "GV-726",
        f"a quota of {what!r} cannot be {got!r}.{did_you_mean(str(what), names)}",
        hint=f"limits: {', '.join(names)}; each a number from 0, or None for none",
        details={"what": what, "got": got, "known": names},
    )


def bad_principal(what: str, got: Any, why: str) -> QueryError:
    """Return the error for a user, role or password that cannot be."""
    return QueryError(
        "GV-727",
        f"{what} cannot be {got!r}: {why}" if what != "a password" else f"{what}: {why}",
        hint="names have 1 to 255 printable characters without a slash; passwords at least 8",
        details={"what": what},
    )


def last_admin(name: str) -> QueryError:
    """Return the error for a change after which nobody could change users any more."""
    return QueryError(
        "GV-728",
        f'"{name}" is the only admin',
        hint="let another user be admin first, or drop all others before this one",
        details={"user": name},
    )


def users_are_of_clusters() -> QueryError:
    """Return the error for a user's name where nobody asks for it."""
    return QueryError(
        "GV-729",
        "user and password are for clusters; who opens the files itself may read and write them",
        hint="leave them out, or connect with cluster=",
    )
