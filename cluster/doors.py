"""Who is let in at the coordinator, and what they may do there with names, users and roles."""

import hashlib
import threading
from collections.abc import Callable
from typing import Any

from gpuvec import errors
from gpuvec.cluster_messages import CallCoordinator, OpenDatabase
from gpuvec.coord.passwords import is_password
from gpuvec.coord.root_coord import RootCoord
from gpuvec.meta.access import Access

_CREATING = ("create", "begin", "name", "discard")
_NAMED = {"drop": "name", "rename": "old", "alias": "name"}  # where each says what it is about


class Doors:
    """The clients of one database, and as whom they were let in. Thread-safe."""

    def __init__(self) -> None:
        self._users: dict[str, tuple[str, bytes]] = {}  # by client: user, digest of what it said
        self._nodes: set[str] = set()  # clients that are nodes of the cluster
        self._lock = threading.Lock()

    def admit(self, message: OpenDatabase, access: Access) -> None:
        """Let a client in; it is asked again with each `OpenDatabase`, which is said often.

        Raises:
            AccessDeniedError: `GV-720`.
        """
        if message.node or not access.users:
            with self._lock:
                (self._nodes.add if message.node else self._nodes.discard)(message.client)
            return
        user = access.users.get(message.user)
        said = _digest(message, "" if user is None else user.secret)
        if self._users.get(message.client) == (message.user, said) and user is not None:
            return
        if not is_password(message.password, None if user is None else user.secret):
            self.forget(message.client)
            raise errors.not_admitted(message.user)
        with self._lock:
            self._users[message.client] = message.user, said

    def forget(self, client: str) -> None:
        """Let a client go."""
        with self._lock:
            self._users.pop(client, None)
            self._nodes.discard(client)

    def reader(self, client: str, access: Access) -> Callable[[str], bool]:
        """Return what tells which collections a client may read."""
        if not access.users or client in self._nodes:
            return lambda _: True
        user, _ = self._users.get(client, ("", b""))
        return lambda collection_id: access.may(user, "read", collection_id)

    def check(self, message: CallCoordinator, root: RootCoord, identity: str) -> None:
        """Raise unless a client may have something done.

        Raises:
            AccessDeniedError: `GV-721`.
            UnavailableError: `GV-754`, the coordinator is new and does not know the client yet.
        """
        access = root.access
        if not access.users or message.client in self._nodes:
            return
        user, _ = self._users.get(message.client, ("", b""))
        if not user:
            raise errors.not_hosted(identity)
        method, arguments = message.method, message.arguments
        if method in _CREATING:
            _allow(access, user, "create", "*", "new collections")
        elif method in _NAMED:
            name = arguments[_NAMED[method]]
            if name is None:  # an alias that goes
                name = arguments["alias"]
            collection_id = root.id_of(name) or "*"
            _allow(access, user, "manage", collection_id, f'collection "{name}"')
        elif method == "access" and not (
            access.is_admin(user) or _is_own_password(arguments, user)
        ):
            raise errors.not_allowed(user, "admin", "users, roles and quotas")


def _allow(access: Access, user: str, privilege: str, collection_id: str, what: str) -> None:
    if not access.may(user, privilege, collection_id):
        raise errors.not_allowed(user, privilege, what)


def _is_own_password(arguments: Any, user: str) -> bool:
    is_password_change = arguments["action"] == "set_password"
    return is_password_change and bool(arguments["arguments"].get("name") == user)


def _digest(message: OpenDatabase, secret: str) -> bytes:
    said = f"{message.user}\0{secret}\0{message.password}"
    return hashlib.blake2b(said.encode(), digest_size=16).digest()
