"""A node of a simulated cluster: the product's `Grants`, and what a `NodeEngine` does with them.

Claims, fences, appends and looks are steps of their own, between which others act.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gpuvec import errors
from gpuvec.cluster.commits import COMMIT_S, OwnersLog, Standing
from gpuvec.cluster.grants import Grants
from gpuvec.cluster_messages import (
    REPORT_S,
    Called,
    CallOwner,
    Disown,
    Done,
    Hello,
    LoadSegments,
    NodeReport,
    Own,
    ReleaseSegments,
    ReportReply,
)
from gpuvec.data_messages import PlannedPart, PlanRead, ReadPart, ReadPlan, Stale, Write
from gpuvec.messages import WriteReply
from gpuvec.meta.changes import Change
from gpuvec.node.standing import is_of, whole_of
from gpuvec.proxy.calls import Came
from gpuvec.testing.sim_network import Process, Web, Work
from gpuvec.testing.sim_store import (
    Fenced,
    Look,
    NoteWord,
    Record,
    SaveRows,
    ShelfState,
    SimStore,
    TakeEpoch,
    View,
    stepwise,
)
from gpuvec.types import NodeId, SegmentId
from gpuvec.work_messages import Commit

DB = "db"
_STORE_S = 0.01  # of one step at the store
_FLUSH_S = 1.5
_TRIES = 5
_UNCLEAR = 0.04  # appends that are done and seem to have failed


@dataclass(slots=True)
class Claimed:
    """A collection that a node has claimed, as it is in memory.

    Attributes:
        epoch: of the claim.
        view: all records, with those that were written since.
    """

    epoch: int
    view: Look

    def done(self, request: str) -> int | None:
        """Return the version of a request that was carried out."""
        return next((version for version, name in self.view.records() if name == request), None)


@dataclass(eq=False)
class SimNode:
    """One incarnation of a node.

    Args:
        web: the network.
        store: the store.
        name, incarnation, host: who and where it is.
        coordinator: to whom it reports.
    """

    web: Web
    store: SimStore
    name: NodeId
    incarnation: str
    host: str
    coordinator: NodeId
    claimed: dict[str, Claimed] = field(default_factory=dict)
    known: dict[str, Look] = field(default_factory=dict)  # of followed collections
    held: dict[str, set[SegmentId]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.grants = Grants(self.name, lambda: self.web.now_s)
        self.process = Process(self.name, self.incarnation, self.answer)
        self._busy: set[str] = set()
        self._plans: dict[tuple[str, int, int], Look] = {}
        self._hurry = False
        self._numbers = 0

    def start(self) -> None:
        """Begin to answer and to report."""
        self.web.start(self.process)
        self.web.spawn(self.process, self._report_for_ever())
        self.web.spawn(self.process, self._flush_for_ever())

    def answer(self, message: Any) -> Work:
        """Return the work of answering a message."""
        match message:
            case Own():
                return self._own(message)
            case Disown():
                return self._disown(message)
            case Write():
                return self._write(message)
            case CallOwner():
                return self._note(message)
            case PlanRead():
                return self._plan(message)
            case ReadPart():
                return self._read(message)
            case LoadSegments() | ReleaseSegments():
                return self._hold(message)
            case _:
                raise AssertionError(f"nobody answers {message}")

    # Owning

    def _own(self, order: Own) -> Work:
        yield 0.0
        if self.grants.own(order):
            self._report()
        return Done()

    def _disown(self, order: Disown) -> Work:
        yield 0.0
        if self.grants.end(order) and order.collection_id in self.claimed:
            yield from self._flush(order.collection_id)
            self.claimed.pop(order.collection_id, None)
        return Done()

    def _write(self, message: Write) -> Work:
        request = message.request
        name = request.collection_id
        self.grants.check_term(name, message.term)
        while name in self._busy:
            yield _STORE_S
        with self._alone(name):
            mine = yield from self._claim(name)
            found = mine.done(request.request_id)
            if found is not None:
                return WriteReply(version=found)
            version = max(mine.view.version, message.seen) + 1
            yield _STORE_S
            try:
                self.store.shelves[name].append(mine.epoch, (version, request.request_id))
            except Fenced:
                self.claimed.pop(name, None)
                raise errors.not_owner(name, self.name) from None
            if self.web.chance.random() < _UNCLEAR:
                self.claimed.pop(name, None)
                raise errors.not_owner(name, self.name, outcome="unknown")
            self._apply(mine, (version, request.request_id))
            return WriteReply(version=version)

    def _apply(self, mine: Claimed, record: Record) -> None:
        view = mine.view
        mine.view = Look(view.entry_id, view.epoch, view.segments, (*view.tail, record))

    def _claim(self, name: str) -> Generator[float, None, Claimed]:
        """Become the owner in the log, if this node is not; return what it has in memory."""
        if name in self.claimed and not self.grants.is_old_claim(name):
            return self.claimed[name]
        shelf = self.store.shelves[name]
        for _ in range(_TRIES):
            yield _STORE_S
            view = shelf.view()
            self.grants.permit(name)
            epoch = view.state.epoch + 1
            try:
                yield from self._commit(name, view, TakeEpoch(epoch=epoch))
                yield _STORE_S
                self.claimed[name] = Claimed(epoch, shelf.fence(epoch))
            except (Fenced, errors.ConflictError):
                continue
            return self.claimed[name]
        raise errors.not_owner(name, self.name)

    def _commit(
        self, name: str, view: View, change: Change, epoch: int | None = None
    ) -> Generator[float, None, View]:
        """Have the coordinator commit a change, as the owner of an epoch."""

        def check(state: ShelfState) -> None:
            if epoch is not None and state.epoch != epoch:
                self.claimed.pop(name, None)
                raise errors.not_owner(name, self.name)

        log = OwnersLog(DB, name, ShelfState(), Standing(term=lambda: self.grants.term(name)))
        generation = self.grants.generation(name) if name in self.grants else view.generation
        procedure = log.commit(
            view, [change], generation=generation, committer=self.name, check=check
        )
        shelf = self.store.shelves[name]
        found: View = yield from stepwise(procedure, shelf.objects, self.web, self._ask)
        return found

    def _ask(self, order: Commit) -> Work:
        answers: list[Came] = []
        self.web.begin(
            self.name, self.coordinator, order, deadline_s=COMMIT_S, then=answers.append, twice=True
        )
        while not answers:
            yield _STORE_S
        if answers[0].error is not None:
            raise answers[0].error
        return answers[0].reply

    def _note(self, message: CallOwner) -> Work:
        """Do what stands for a change of the schema."""
        name = message.collection_id
        self.grants.generation(name)
        while name in self._busy:
            yield _STORE_S
        with self._alone(name):
            mine = yield from self._claim(name)
            shelf = self.store.shelves[name]
            word = NoteWord(word=message.arguments[0])
            try:
                after = yield from self._commit(name, shelf.view(), word, mine.epoch)
                mine.view = shelf.seen(after)
            except errors.GpuvecError as error:
                if not errors.is_not_committed(error):
                    self.claimed.pop(name, None)
                raise
            return Called(value=None)

    def _flush(self, name: str) -> Iterator[float]:
        """Save the log's records as a segment."""
        while name in self._busy:
            yield _STORE_S
        with self._alone(name):
            mine = self.claimed.get(name)
            if mine is None or not mine.view.tail:
                return
            shelf = self.store.shelves[name]
            view = shelf.view()
            self._numbers += 1
            save = SaveRows(
                epoch=mine.epoch,
                after=mine.view.saved,  # what was saved unknown to this node is not saved again
                segment=SegmentId(f"{name}-{self.incarnation}-{self._numbers:06d}"),
                records=mine.view.tail,
            )
            yield 2 * _STORE_S
            try:
                mine.view = shelf.seen((yield from self._commit(name, view, save, mine.epoch)))
            except errors.GpuvecError as error:
                if not errors.is_not_committed(error):
                    self.claimed.pop(name, None)

    def _flush_for_ever(self) -> Work:
        while True:
            yield _FLUSH_S * (0.5 + self.web.chance.random())
            for name in list(self.claimed):
                yield from self._flush(name)

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        self._busy.add(name)
        try:
            yield
        finally:
            self._busy.discard(name)

    # Reading

    def _plan(self, message: PlanRead) -> Work:
        name = message.collection_id
        mine = self.claimed.get(name)
        if mine is not None and not self._knows_all(name):
            yield _STORE_S
            if self.store.shelves[name].epoch != mine.epoch:
                self.claimed.pop(name, None)
        if name in self.claimed:
            look = self.claimed[name].view
        else:
            yield _STORE_S
            look = self.known[name] = self.store.shelves[name].look()
        self._plans[name, look.entry_id, look.version] = look
        yield 0.0
        return ReadPlan(
            collection_id=name,
            entry_id=look.entry_id,
            version=look.version,
            segments=tuple((segment, len(rows)) for segment, rows in look.segments.items()),
            growing_rows=len(look.tail),
        )

    def _knows_all(self, name: str) -> bool:
        return self.grants.knows_all(name)

    def _read(self, part: ReadPart) -> Work:
        if part.plan is None:
            return (yield from self._read_at(part))
        plan = yield from self._plan(part.plan)
        if part.whole:
            part = whole_of(part, plan)
        elif not is_of(part, plan):
            return PlannedPart(plan=plan)
        found = yield from self._read_at(part)
        return PlannedPart(plan=plan, answer=None if isinstance(found, Stale) else found)

    def _read_at(self, part: ReadPart) -> Work:
        name = part.collection_id
        look = self._plans.get((name, part.entry_id, part.version)) or self.known.get(name)
        if look is None or look.entry_id != part.entry_id or look.version < part.version:
            yield _STORE_S
            look = self.known[name] = self.store.shelves[name].look()
            if look.entry_id != part.entry_id:
                return Stale(entry_id=look.entry_id)
        yield 0.0
        found = [record for segment in part.segments for record in look.segments[segment]]
        found += look.tail if part.growing else ()
        return tuple(request for version, request in found if version <= part.version)

    def _hold(self, order: LoadSegments | ReleaseSegments) -> Work:
        yield 0.0
        held = self.held.setdefault(order.collection_id, set())
        if isinstance(order, ReleaseSegments):
            held.difference_update(order.segments)
        else:
            self.web.spawn(self.process, self._load(held, order.segments))
        return Done()

    def _load(self, held: set[SegmentId], segments: tuple[SegmentId, ...]) -> Work:
        for segment in segments:
            yield 0.1
            held.add(segment)

    # Reporting

    def hello(self) -> Hello:
        """Return who this is."""
        return Hello(
            node=self.name, incarnation=self.incarnation, address=f"sim://{self.incarnation}",
            host=self.host, memory_bytes=1 << 30, threads=2,
        )  # fmt: skip

    def _report_for_ever(self) -> Work:
        self._greet()
        while True:
            yield REPORT_S
            self._report()

    def _greet(self) -> None:
        self._say(self.hello(), lambda came: None)

    def _report(self) -> None:
        sent_s = self.web.now_s
        held = {name: tuple(sorted(found)) for name, found in self.held.items() if found}
        report = NodeReport(
            node=self.name,
            incarnation=self.incarnation,
            held={DB: held},
            owned={DB: self.grants.terms()},
        )

        def heard(came: Came) -> None:
            reply = came.reply
            if isinstance(reply, ReportReply) and self.process.alive:
                self.grants.heard(sent_s, reply.renewed.get(DB, {}))
                if not reply.known:
                    self._greet()

        self._say(report, heard)

    def _say(self, message: Any, then: Any) -> None:
        self.web.begin(self.name, self.coordinator, message, deadline_s=2.0, then=then)
