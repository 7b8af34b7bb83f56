"""Who is there and how they do, as a client knows it; keeps itself up, and waits for nothing."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from gpuvec.cluster_messages import COORDINATOR, GetRoutes, Owner, RouteDelta
from gpuvec.proxy.calls import Calls, Came
from gpuvec.proxy.fleet import Fleet
from gpuvec.proxy.hedging import Hedging
from gpuvec.proxy.route_table import RouteTable
from gpuvec.settings import config
from gpuvec.types import NodeId

_FETCH_S = 5.0  # deadline of a fetch of the routes
_FETCH_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long reads wait, in seconds; see the settings of the same names.

    Attributes:
        search_deadline_s: for one step of a read.
        wait_s: while there is nobody to ask.
        ping_s: for a sign of life of a node that is late.
    """

    search_deadline_s: float
    wait_s: float
    ping_s: float


def limits_of_settings() -> Limits:
    """Return the limits that the settings have now."""
    return Limits(
        search_deadline_s=config["cluster.search_deadline_s"],
        wait_s=config["cluster.wait_s"],
        ping_s=config["cluster.ping_s"],
    )


class Directory:
    """Routes, addresses and the state of nodes. Safe for use by several threads.

    Args:
        identity: of the database.
        calls: begins calls.
        learn: told each node's address when it is heard.
        limits: asked for at each step.
        hedge_share: of all calls, that may be made twice.
        seed: of what is drawn.
    """

    def __init__(
        self,
        identity: str,
        calls: Calls,
        *,
        learn: Callable[[NodeId, str], None],
        limits: Callable[[], Limits],
        hedge_share: float,
        seed: int,
    ) -> None:
        self.identity = identity
        self.calls = calls
        self.limits = limits
        self.table = RouteTable(identity)
        self.fleet = Fleet(seed=seed)
        self.hedging = Hedging(share=hedge_share)
        self.random = random.Random(seed)
        self._learn = learn
        self._lock = threading.Lock()
        self._fetching = False
        self._fetch_from_s = float("-inf")  # not before

    def apply(self, delta: RouteDelta) -> None:
        """Take in routes that the coordinator pushed or sent."""
        if delta.identity != self.identity:
            return
        self.table.apply(delta)
        routes = self.table.routes
        self.fleet.learn(routes.nodes.values())
        for line in routes.nodes.values():
            self._learn(line.node, line.address)

    def note_owner(self, owner: Owner) -> Owner:
        """Take in what `FindOwner` said; return the owner that counts."""
        named = self.table.note_owner(owner)
        self._learn(named.node, named.address)
        return named

    def refresh(self, *, force: bool = False) -> None:
        """Begin to fetch all routes, if some are missing.

        Args:
            force: also if none is known to be missing: a push may have been lost.
        """
        now_s = self.calls.now_s()
        with self._lock:
            wanted = (force or self.table.behind) and now_s >= self._fetch_from_s
            if self._fetching or not wanted:
                return
            self._fetching = True
            self._fetch_from_s = now_s + _FETCH_AGAIN_S
        message = GetRoutes(identity=self.identity)
        self.calls.begin(COORDINATOR, message, deadline_s=_FETCH_S, then=self._fetched)

    def backoff(self, seconds: float) -> float:
        """Return a wait of about so long, so that clients do not come back all at once."""
        return seconds * self.random.uniform(0.5, 1.0)

    def _fetched(self, came: Came) -> None:
        self._fetching = False
        if isinstance(came.reply, RouteDelta):
            self.apply(came.reply)
