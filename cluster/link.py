"""A client's link to a cluster: direct calls, pushed routes, keeping databases open there."""

import logging
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

from distributed import Client
from distributed.security import Security

from gpuvec import errors
from gpuvec.cluster.client_engine import ClusterEngine
from gpuvec.cluster.scheduler_plugin import TOPIC
from gpuvec.cluster.transport import DaskTransport
from gpuvec.cluster_messages import COORDINATOR, KEEP_S, Ping, RouteDelta

_HELLO_S = 5.0
_START_S = 15.0  # that a scheduler may take to answer at all
_RECONNECT_S = 24 * 3600  # pushes come again when the scheduler does; calls need no `Client`
_KEEP_DEADLINE_S = 10.0

_logger = logging.getLogger("gpuvec.cluster")


class Link:
    """One cluster, as this process reaches it. Safe for use by several threads.

    Args:
        address: of the scheduler.
        security: of Dask; None: as configured.
        then: called when the last user of the link has closed it.

    Raises:
        UnavailableError: `GV-744` nobody answers there; `GV-743` there is no coordinator;
            `GV-757` it wants TLS, and `security` has no certificates.

    Attributes:
        transport: reaches coordinator and nodes.
        client: of Dask, for jobs and events.
    """

    def __init__(
        self, address: str, *, security: Any = None, then: Callable[[], None] = lambda: None
    ) -> None:
        self.address = address
        self.security = Security() if security is None else security
        arguments = self.security.get_connection_args("client")
        if address.startswith("tls://") and arguments.get("ssl_context") is None:
            raise errors.tls_without_certificates(address)
        self.transport = DaskTransport(address, connection_args=arguments)
        self._then = then
        self._kept: dict[str, ClusterEngine] = {}
        self._users = 0
        self._lock = threading.Lock()
        self._ending = threading.Event()
        try:
            self._greet()
            self.client = Client(
                address,
                security=self.security,
                set_as_default=False,
                direct_to_workers=True,
                timeout=_RECONNECT_S,
            )
        except BaseException:
            self.transport.close()
            raise
        self.client.subscribe_topic(TOPIC, self._pushed)
        self._thread = threading.Thread(target=self._keep, name="gpuvec-link", daemon=True)
        self._thread.start()

    @property
    def dashboard(self) -> str:
        """The address of Dask's dashboard; empty if it has none."""
        return str(self.client.dashboard_link or "")

    def _greet(self) -> None:
        """Wait for a scheduler that is being started."""
        until = time.monotonic() + _START_S
        while True:
            try:
                self.transport.call(COORDINATOR, Ping(), deadline_s=_HELLO_S)
            except errors.GpuvecError as error:
                if error.code == "GV-750":
                    raise errors.no_coordinator(self.address) from None
                if time.monotonic() > until:
                    raise errors.no_scheduler(self.address, error.message) from error
                time.sleep(0.2)
            else:
                return

    # Open databases

    def keep(self, engine: ClusterEngine) -> None:
        """Serve a client's engine: its routes are as new as pushes make them.

        The coordinator is told every `KEEP_S` that the database is needed, so a new one opens it.
        """
        with self._lock:
            self._kept[engine.client] = engine
        engine.router.refresh()  # known before they are needed: the coordinator may be away then

    def forget(self, engine: ClusterEngine) -> None:
        """End what `keep` began."""
        with self._lock:
            self._kept.pop(engine.client, None)

    def _engines(self) -> list[ClusterEngine]:
        with self._lock:
            return list(self._kept.values())

    def _pushed(self, event: tuple[float, Any]) -> None:
        delta: RouteDelta = pickle.loads(event[1]["delta"])
        for engine in self._engines():
            engine.router.apply(delta)

    def _keep(self) -> None:
        generations: dict[str, int] = {}
        while not self._ending.wait(KEEP_S):
            for engine in self._engines():
                message = engine.opening()
                try:
                    opened = self.transport.call(COORDINATOR, message, deadline_s=_KEEP_DEADLINE_S)
                except errors.GpuvecError as error:
                    _logger.debug("%s is not kept open: %s", engine.where, error)
                    continue
                if opened.generation != generations.get(engine.client, opened.generation):
                    engine.router.refresh()
                generations[engine.client] = opened.generation
            if self.client.status == "running":  # a scheduler that came back knows no subscribers
                self.client.subscribe_topic(TOPIC, self._pushed)

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
