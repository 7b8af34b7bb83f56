"""The channels of a database's collections that this process has open."""

import threading
from typing import TYPE_CHECKING

from gpuvec import telemetry
from gpuvec.api.external_files import ExternalFiles
from gpuvec.api.figures import readings
from gpuvec.node.shards import Channels, open_channels
from gpuvec.node.transaction import Sight

if TYPE_CHECKING:
    from gpuvec.api.engine import Engine


class OpenChannels:
    """The channels by collection; each is opened when it is first asked for.

    Args:
        engine: reads, writes and names for them.
        flush_bytes: the size at which growing rows are flushed.
        lock: of the engine, held while channels are opened.
    """

    def __init__(self, engine: "Engine", flush_bytes: int, lock: threading.RLock) -> None:
        self._engine = engine
        self._flush_bytes = flush_bytes
        self._open: dict[str, Channels] = {}
        self._lock = lock
        telemetry.METERS.watch(self, lambda channels: readings(channels._engine))

    def of(self, collection_id: str) -> Channels:
        """Return the channels of a collection.

        Raises:
            NotFoundError: `GV-608`, it was dropped.
        """
        found = self._open.get(collection_id)
        if found is None:
            with self._lock:
                found = self._open.get(collection_id)
                if found is None:
                    found = self._open[collection_id] = self._opened(collection_id)
        return found

    def peek(self, collection_id: str) -> Channels | None:
        """Return the channels of a collection, None where they are not open."""
        return self._open.get(collection_id)

    def all(self) -> list[Channels]:
        """Return all that are open."""
        return list(self._open.values())

    def retire(self, collection_id: str, name: str) -> None:
        """Let go of the channels of a collection that was dropped; `name` is for messages."""
        found = self._open.pop(collection_id, None)
        if found is not None:
            found.retire(name)

    def _opened(self, collection_id: str) -> Channels:
        engine = self._engine
        engine.names.name_of(collection_id)
        sight = Sight(engine.log_of(collection_id))
        engine.run(sight.read())
        return open_channels(
            sight,
            collection_id,
            store=engine.store,
            run=engine.run,
            stamps=engine.oracle,
            mint=engine.mint,
            flush_bytes=self._flush_bytes,
            committer=engine.committer_name,
            beside=engine.beside,
            permit=lambda: engine.permit(collection_id),
            outside=ExternalFiles(
                engine,
                lambda: self.of(collection_id).state.schema,
                lambda: engine.name_of(collection_id),
            ),
        )
