"""A client's link to a cluster: direct calls, pushed routes, keeping databases open there."""

import logging
import pickle
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from distributed import Client

from gpuvec import errors
from gpuvec.cluster.scheduler_plugin import TOPIC
from gpuvec.cluster.transport import DaskTransport
from gpuvec.cluster_messages import COORDINATOR, KEEP_S, OpenDatabase, Ping, RouteDelta

_HELLO_S = 5.0
_KEEP_DEADLINE_S = 10.0

_logger = logging.getLogger("gpuvec.cluster")


class Link:
    """One cluster, as this process reaches it. Safe for use by several threads.

    Args:
        address: of the scheduler.
        security: of Dask; None: as configured.
        then: called when the last user of the link has closed it.

    Raises:
        UnavailableError: `GV-744` nobody answers there; `GV-743` there is no coordinator.

    Attributes:
        transport: reaches coordinator and nodes.
        client: of Dask, for jobs and events.
    """

    def __init__(
        self, address: str, *, security: Any = None, then: Callable[[], None] = lambda: None
    ) -> None:
        self.address = address
        try:
            self.client = Client(
                address,
                security=security,
                set_as_default=False,
                direct_to_workers=True,
                timeout=_HELLO_S,
            )
        except (OSError, ValueError) as error:
            raise errors.no_scheduler(address, str(error)) from error
        arguments = self.client.security.get_connection_args("client")
        self.transport = DaskTransport(address, connection_args=arguments)
        self._then = then
        self._applies: dict[str, list[Callable[[RouteDelta], None]]] = {}
        self._kept: dict[str, OpenDatabase] = {}
        self._users = 0
        self._lock = threading.Lock()
        self._ending = threading.Event()
        try:
            self._greet()
        except BaseException:
            self._close()
            raise
        self.client.subscribe_topic(TOPIC, self._pushed)
        self._thread = threading.Thread(target=self._keep, name="gpuvec-link", daemon=True)
        self._thread.start()

    @property
    def dashboard(self) -> str:
        """The address of Dask's dashboard; empty if it has none."""
        return str(self.client.dashboard_link or "")

    def _greet(self) -> None:
        try:
            self.transport.call(COORDINATOR, Ping(), deadline_s=_HELLO_S)
        except errors.UnavailableError as error:
            if error.code == "GV-750":
                raise errors.no_coordinator(self.address) from None
            raise

    # Routes

    def listen(self, identity: str, apply: Callable[[RouteDelta], None]) -> None:
        """Call `apply`, which waits for nothing, with what changes in a database's routes."""
        with self._lock:
            self._applies.setdefault(identity, []).append(apply)

    def _pushed(self, event: tuple[float, Any]) -> None:
        delta: RouteDelta = pickle.loads(event[1]["delta"])
        with self._lock:
            applies = list(self._applies.get(delta.identity, ()))
        for apply in applies:
            apply(delta)

    # Open databases

    def keep(self, message: OpenDatabase) -> None:
        """Say every `KEEP_S` that a database is needed, so that a new coordinator opens it."""
        with self._lock:
            self._kept[message.client] = message

    def forget(self, client: str, apply: Callable[[RouteDelta], None]) -> None:
        """End what `keep` and `listen` began."""
        with self._lock:
            message = self._kept.pop(client, None)
            if message is not None:
                with suppress(ValueError):
                    self._applies[message.database.identity].remove(apply)

    def _keep(self) -> None:
        while not self._ending.wait(KEEP_S):
            with self._lock:
                messages = list(self._kept.values())
            for message in messages:
                try:
                    self.transport.call(COORDINATOR, message, deadline_s=_KEEP_DEADLINE_S)
                except errors.GpuvecError as error:
                    _logger.debug("%s is not kept open: %s", message.database.url, error)

    # Life

    def use(self) -> "Link":
        """Count another user."""
        with self._lock:
            self._users += 1
        return self

    @property
    def usable(self) -> bool:
        """Whether it was not closed."""
        return not self._ending.is_set()

    def release(self) -> None:
        """Count a user less; the last one closes the link."""
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self.end()

    def end(self) -> None:
        """Close the link, whoever uses it. May be called again."""
        if not self._ending.is_set():
            self._ending.set()
            self._thread.join()
            self._close()

    def _close(self) -> None:
        self.transport.close()
        self.client.close()
        self._then()
