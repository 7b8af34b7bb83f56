"""What one client may do and how much of it: asked at its door, before anything is sent.

Clients of a cluster could run any code there, so this keeps off mistakes, not attackers; a server
in front of a cluster keeps off both, since there a door is all that its users reach.
"""

import threading
from collections.abc import Callable

from gpuvec import errors
from gpuvec.messages import InsertRows, WriteRequest
from gpuvec.meta.access import Access
from gpuvec.proxy.admission import Rate

_LOOK_S = 5.0  # how long rights may be old
_OF_METHODS = {
    **dict.fromkeys(("figures", "index_reports", "job"), "read"),
    **dict.fromkeys(
        (
            "restore",
            "truncate",
            "drop_partition",
            "make_partition",
            "bulk_import",
            "steer_job",
            "flush",
        ),
        "write",
    ),
    "expect": "create",
}  # what needs no `manage`


class Guard:
    """The rights and rates of one client of a database. Safe for use by several threads.

    Args:
        user: who the client is; "": nobody said.
        look: reads the catalogue; asked again when what it said is old.
        name_of: of a collection, for errors.
        now_s: monotonic seconds.
        trusted: a node of the cluster, which works for users that were asked already.
    """

    def __init__(
        self,
        user: str,
        look: Callable[[], Access],
        name_of: Callable[[str], str],
        now_s: Callable[[], float],
        *,
        trusted: bool = False,
    ) -> None:
        self._user = user
        self._look = look
        self._name_of = name_of
        self._now_s = now_s
        self._trusted = trusted
        self._access = Access()
        self._looked_s = float("-inf")
        self._rates: dict[tuple[str, str], Rate] = {}
        self._lock = threading.Lock()

    def read(self, collection_id: str) -> None:
        """Let a read begin.

        Raises:
            AccessDeniedError: `GV-721`, the user may not; `GV-720`, it is none.
            QuotaError: `GV-768`, too many in a second.
        """
        self.check("read", collection_id)
        self._take("reads_per_s", "reads", collection_id, 1)

    def write(self, request: WriteRequest) -> None:
        """Let a write begin; errors as `read`."""
        self.check("write", request.collection_id)
        if isinstance(request.change, InsertRows):
            rows = len(request.change.rows)
            self._take("write_rows_per_s", "rows", request.collection_id, rows)

    def call(self, collection_id: str, method: str) -> None:
        """Let the owner of a collection be asked for something; errors as `read`."""
        self.check(_OF_METHODS.get(method, "manage"), collection_id)

    def check(self, privilege: str, collection_id: str) -> None:
        """Raise unless the user may do something."""
        access = self._now()
        if self._trusted or access.may(self._user, privilege, collection_id):
            return
        if self._user not in access.users:
            raise errors.not_admitted(self._user)
        what = f'collection "{self._name_of(collection_id)}"'
        raise errors.not_allowed(self._user, privilege, what)

    def _now(self) -> Access:
        now_s = self._now_s()
        if now_s >= self._looked_s + _LOOK_S:
            self._access = self._look()
            self._looked_s = now_s  # only now: what could not be looked at is not known
        return self._access

    def _take(self, limit: str, what: str, collection_id: str, amount: float) -> None:
        per_s = self._access.limit(limit, collection_id)
        if per_s is None or self._trusted:
            return
        with self._lock:
            rate = self._rates.get((limit, collection_id))
            if rate is None or rate.per_s != per_s:
                rate = self._rates[limit, collection_id] = Rate(what, per_s)
        rate.take(amount, self._now_s())
