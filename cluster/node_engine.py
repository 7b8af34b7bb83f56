"""`NodeEngine`: the engine of a worker: it owns collections granted to it, and follows all others.

A collection is owned by the coordinator's word (`gpuvec.cluster.grants`); its channels are claimed
at the first write. What embedded is the database's generation, is here that of the coordinator who
granted. Names are the coordinator's: a node only reads them.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from gpuvec import errors
from gpuvec.api.engine import Engine
from gpuvec.clock import Clock
from gpuvec.cluster.at_owner import AtOwner
from gpuvec.cluster.commits import COMMIT_S, OwnersLog, Standing
from gpuvec.cluster.grants import Grants
from gpuvec.cluster.maintenance import Elsewhere
from gpuvec.cluster.warmth import Warmth
from gpuvec.cluster_messages import (
    COORDINATOR,
    Called,
    CallOwner,
    Disown,
    Done,
    LoadSegments,
    Own,
    ReleaseSegments,
)
from gpuvec.coord.data_coord import is_worth_a_segment
from gpuvec.data_messages import PlanRead, ReadPart, Write
from gpuvec.messages import WriteReply
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes import Change
from gpuvec.node.query_node import QueryNode
from gpuvec.node.shards import Channels
from gpuvec.query.session import new_session, share_memory
from gpuvec.rpc import Transport
from gpuvec.settings import config
from gpuvec.storage.object_store import Procedure, answered
from gpuvec.storage.open import Store
from gpuvec.types import NodeId, Timestamp

T = TypeVar("T")
_log = logging.getLogger("gpuvec")
_AGAIN_S = 0.2  # between attempts to have something committed
_LOST = ("GV-523", "GV-527", "GV-529")  # what a log says to an owner who was replaced


class NodeEngine(Engine):
    """One database on one node. Safe for use by several threads.

    Args:
        store: where it lies.
        where: its path, for messages.
        node: who this is.
        transport: reaches the coordinator, which commits.
        durability, clock, flush_bytes, age_s, segment_bytes: see `Engine`.

    Attributes:
        MESSAGES: the classes that `handle` takes.
        grants: what it owns.
        bench: held by heavy work of others that is done here.
    """

    MESSAGES = (
        Own, Disown, LoadSegments, ReleaseSegments, Write, CallOwner, PlanRead, ReadPart
    )  # fmt: skip

    def __init__(
        self,
        store: Store,
        where: str,
        *,
        node: NodeId,
        transport: Transport,
        durability: str,
        clock: Clock | None = None,
        flush_bytes: int,
        age_s: float,
        segment_bytes: int = 1 << 30,
    ) -> None:
        super().__init__(
            store,
            where,
            durability=durability,
            clock=clock,
            flush_bytes=flush_bytes,
            age_s=age_s,
            segment_bytes=segment_bytes,
        )
        self.node = node
        self._transport = transport
        self.workplace = Elsewhere(self)
        self.bench = threading.Lock()
        self.committer_name = f"{self.committer_name}:{node}"
        self.grants = Grants(node, self._clock.monotonic_s)
        self._named: set[str] = set()  # collections that had a name, so without one are dropped
        session = new_session()  # on the card, where the worker has one
        self.builds.device = session.device
        if self.files is not None:
            session = share_memory(session, self.files.resident)
        self.session = session
        self.reads = QueryNode(self, session, self._clock)
        self._at_owner = AtOwner(self, session)
        self._warmth = Warmth(self)
        self._table: dict[type, Callable[[Any, float], Any]] = {
            Own: self._own,
            Disown: self._disown,
            LoadSegments: self._load,
            ReleaseSegments: self._release,
            Write: self._write,
            CallOwner: self._call,
            PlanRead: self._plan,
            ReadPart: self._answer,
        }

    def handle(self, message: Any, deadline_s: float) -> Any:
        """Return the answer to a message of `MESSAGES`, or raise what the caller shall raise."""
        return self._table[type(message)](message, deadline_s)

    # Orders of the coordinator

    def heard(self, sent_s: float, renewed: Mapping[str, int]) -> None:
        """Note the answer to a report: leases go on from when it was sent.

        Args:
            sent_s: monotonic seconds, before it was sent.
            renewed: by collection, the terms that go on.
        """
        self.grants.heard(sent_s, renewed)

    def _own(self, order: Own, _: float) -> Done:
        if self.grants.own(order):
            self._know(order.collection_id)
            with self._lock:
                self._check_usable()
                self._begin()  # of maintenance
        return Done()

    def _disown(self, order: Disown, _: float) -> Done:
        if self.grants.end(order):
            channel = self.channels.peek(order.collection_id)
            if order.dropped:
                name = self.names.root.name_of(order.collection_id) or order.collection_id
                self.channels.retire(order.collection_id, name)
            elif channel is not None and channel.owned:
                self._hand_over(channel, order.generation, save=True)
            self.builds.forget(order.collection_id)
            if order.dropped:
                self._warmth.forget(order.collection_id)
                self.names.forget(order.collection_id)
        return Done()

    def _hand_over(
        self, channel: Channels, generation: int, *, save: bool, tidy: bool = False
    ) -> None:
        """End writing to a collection; the log holds what could not be saved in files.

        Args:
            channel: of the collection.
            generation: under which it is written.
            save: flush what is worth a segment.
            tidy: compact what costs little.
        """
        try:
            if save and is_worth_a_segment(channel.status()):
                channel.flush(generation)
            if tidy:
                self.maintenance.finish(channel)
        except errors.GpuvecError as error:
            self._tell_loss(channel.collection_id, error)
        finally:
            channel.close()

    def _tell_loss(self, collection_id: str, error: errors.GpuvecError) -> None:
        if error.code not in (*_LOST, "GV-741") and not errors.is_not_committed(error):
            _log.warning("%s is handed over as it is in the log: %s", collection_id, error)

    def _load(self, order: LoadSegments, _: float) -> Done:
        self._know(order.collection_id)
        self._warmth.load(order.collection_id, order.segments)
        return Done()

    def _release(self, order: ReleaseSegments, _: float) -> Done:
        self._warmth.release(order.collection_id, order.segments)
        return Done()

    # Calls of clients

    def _write(self, message: Write, deadline_s: float) -> WriteReply:
        collection_id = message.request.collection_id
        self.grants.check_term(collection_id, message.term)
        self._know(collection_id)
        self.oracle.observe(message.seen)
        self.oracle.check()
        reply: WriteReply = self._submit(message.request, deadline_s)
        return reply

    def _call(self, message: CallOwner, deadline_s: float) -> Called:
        self.grants.generation(message.collection_id)
        self._know(message.collection_id)
        return self._at_owner.call(message, deadline_s)

    def _plan(self, message: PlanRead, _: float) -> Any:
        return self.reads.plan(message)

    def _answer(self, message: ReadPart, _: float) -> Any:
        return self.reads.answer(message)

    # Commits, which the coordinator makes

    def log_of(self, collection_id: str) -> OwnersLog[CollectionState]:
        """See `Engine.log_of`."""
        standing = Standing(
            term=lambda: self.grants.term(collection_id),
            hopeful=lambda: self.grants.is_sure(collection_id),
        )
        return OwnersLog(str(self.store.identity), collection_id, CollectionState(), standing)

    def run(self, procedure: Procedure[T]) -> T:
        """See `Engine.run`; the coordinator answers what is asked of it."""
        return super().run(answered(procedure, self.ask))

    def ask(self, message: Any, *, deadline_s: float = COMMIT_S) -> Any:
        """Return the coordinator's answer."""
        return self._transport.call(COORDINATOR, message, deadline_s=deadline_s)

    def change(
        self,
        collection_id: str,
        decide: Callable[[CollectionState, Timestamp], Sequence[Change]],
    ) -> None:
        """See `Engine.change`; a coordinator that is away is waited for, `cluster.wait_s`."""
        until_s = self._clock.monotonic_s() + config["cluster.wait_s"]
        while True:
            try:
                return super().change(collection_id, decide)
            except errors.UnavailableError as error:
                if not errors.is_not_committed(error) or self._clock.monotonic_s() >= until_s:
                    raise
            self._clock.sleep(_AGAIN_S)

    # What the embedded engine decides by its generation

    def generation_of(self, collection_id: str) -> int:
        """See `Engine.generation_of`; `GV-741` where another node owns it, or none."""
        return self.grants.generation(collection_id)

    def permit(self, collection_id: str) -> None:
        """See `Engine.permit`."""
        self.grants.permit(collection_id)

    def writable(self) -> Sequence[Channels]:
        """Return the open channels of the collections that this node owns."""
        return [c for c in self.channels.all() if c.collection_id in self.grants]

    @contextmanager
    def writing(self, collection_id: str = "") -> Iterator[int]:
        """Hold the engine's lock as the owner of a collection; yield the generation."""
        with self._lock:
            self._check_usable()
            generation = self.grants.generation(collection_id)
            with self._ruling(collection_id):
                yield generation

    @contextmanager
    def _ruling(self, collection_id: str) -> Iterator[None]:
        """Tell that another is the owner, where the log says so."""
        try:
            yield
        except errors.UnavailableError as error:
            if error.code in _LOST:
                self._let_go(collection_id)
                outcome = error.details.get("outcome", "unknown")
                raise errors.not_owner(collection_id, self.node, outcome=outcome) from error
            raise

    def _let_go(self, collection_id: str) -> None:
        """Follow who took the channels; they are claimed again only under a lease."""
        channel = self.channels.peek(collection_id)
        if channel is not None:
            channel.close()

    def _told(self, collection_id: str, answers: Sequence[Any]) -> Sequence[Any]:
        lost = [a for a in answers if isinstance(a, errors.UnavailableError)]
        if not lost or self.channel(collection_id).owned:
            return answers
        return [
            errors.not_owner(collection_id, self.node, outcome=a.details.get("outcome", "unknown"))
            if isinstance(a, errors.UnavailableError)
            else a
            for a in answers
        ]

    def channel(self, collection_id: str) -> Channels:
        """See `Engine.channel`; what may be out of date first looks whether it still owns them."""
        self._know(collection_id)
        found = super().channel(collection_id)
        if found.owned and not self.grants.knows_all(collection_id):
            found.confirm()
        return found

    def _know(self, collection_id: str) -> None:
        """Learn a collection's name; one that is being filled is called by its id."""
        names = self.names
        if names.root.name_of(collection_id) is None:
            with self._lock:
                self._check_usable()
                names.follow()
        if names.root.name_of(collection_id) is not None:
            self._named.add(collection_id)
        elif collection_id in self.grants and collection_id not in self._named:
            names.expect(collection_id, names.filled(collection_id) or collection_id)

    # Life

    def _maintain(self) -> None:
        self._place.check()
        with self._lock:
            self.names.follow()
            for channel in self.channels.all():
                collection_id = channel.collection_id
                if self.names.root.name_of(collection_id) is not None:
                    self._named.add(collection_id)
                elif collection_id in self._named:
                    self.grants.drop(collection_id)
                    self.channels.retire(collection_id, collection_id)
                    self.builds.forget(collection_id)
                    self._warmth.forget(collection_id)
        for channel in self.writable():
            if channel.owned and self.grants.is_old_claim(channel.collection_id):
                channel.close()  # the next write claims it under the present term
        if all(self.grants.is_sure(name) for name in self.grants.terms()):
            self.maintenance.tend()  # else nobody would commit what comes of it

    def _save(self) -> None:
        for channel in self.channels.all():
            collection_id = channel.collection_id
            if channel.owned and collection_id in self.grants:
                generation, sure = self.grants.generation(collection_id), self.grants.is_sure
                self._hand_over(channel, generation, save=True, tidy=sure(collection_id))
                self.grants.drop(collection_id)

    def close(self) -> None:
        """Save what it owns in files, and let go of everything."""
        self._warmth.stop()
        self.reads.close()
        super().close()

    def tend(self) -> None:
        """Do what is due with each report: let idle reads go."""
        self.reads.tend()

    @property
    def held(self) -> Mapping[str, tuple[Any, ...]]:
        """By collection, the segments that are open and warm."""
        return self._warmth.held()

    @property
    def memory_used(self) -> int:
        """Bytes of what is warm."""
        return self._warmth.size_bytes()
