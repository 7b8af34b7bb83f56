"""Heavy work of a cluster: ordered by owners, placed by the coordinator, done by any worker.

An owner says what it wants again and again, until it hears what came of it: so neither a lost
message nor a coordinator that is started anew needs a rule of its own. Works are known by a name
that follows from what they read; one that is under way is not begun twice, one whose worker is lost
is begun again elsewhere. Nothing is changed by a work, see `gpuvec.api.heavy`.

| died | left behind | cured by |
|---|---|---|
| the worker | files that nobody names | the work is begun again; the files are collected |
| the coordinator | a task that nobody waits for | the next one is told, and begins again |
| the owner | a task, then files that nobody names | the next owner decides for itself |
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from gpuvec import errors
from gpuvec.api.heavy import Stopped, Work
from gpuvec.cluster.wire import alone
from gpuvec.cluster_messages import Done
from gpuvec.query.session import new_session
from gpuvec.settings import config
from gpuvec.work_messages import HeavyWork, WorkShare, WorkState

if TYPE_CHECKING:
    from gpuvec.cluster.node_engine import NodeEngine

_TRIES = 3  # of a work whose workers are lost
_FORGOTTEN_S = 60.0  # without a word of its owner a work is not wanted any more
_POLL_S = (0.02, 0.3)
_ASK_S = 10.0
_AWAY_S = 0.5  # between questions to a coordinator that does not answer
_TELL_S = 0.5  # between reports of how far a work is
_RESULT_S = 30.0


class Ending(Protocol):
    """A task: `concurrent.futures.Future`, or that of Dask."""

    def done(self) -> bool:
        """Return whether it has ended."""

    def result(self, timeout: float | None = None) -> Any:
        """Return what came of it, or raise."""

    def cancel(self) -> Any:
        """Have it not done."""


@dataclass(slots=True)
class _Order:
    identity: str
    what: str
    work: Any
    task: Ending
    begun_s: float
    asked_s: float
    tries: int = 1
    share: float = 0.0
    wanted: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)


class Workshop:
    """The works of a cluster, at its coordinator. Safe for use by several threads.

    Args:
        submit: from database, name and work to a task that runs somewhere.
        width: returns how many workers there are.
        lost: what a task raises whose worker is gone.
    """

    def __init__(
        self,
        submit: Callable[[str, str, Work], Ending],
        width: Callable[[], int],
        lost: tuple[type[BaseException], ...] = (),
    ) -> None:
        self._submit = submit
        self._width = width
        self._lost: tuple[type[BaseException], ...] = (CancelledError, *lost)
        self._orders: dict[str, _Order] = {}
        self._lock = threading.Lock()

    def ask(self, message: HeavyWork) -> WorkState:
        """Begin a work unless it is under way; return how it stands.

        What came of it is told once it is there, to each who asks until it says that it knows.
        """
        now_s = time.monotonic()
        self._sweep(now_s)
        with self._lock:
            order = self._orders.get(message.job_id)
            if not message.wanted:
                self._end(message.job_id)
                return WorkState(status="unknown", width=1)
            if order is None and message.work is None:
                return WorkState(status="unknown", width=self._width())
            if order is None:
                task = self._submit(message.identity, message.job_id, message.work)
                order = self._orders[message.job_id] = _Order(
                    message.identity, message.what, message.work, task, now_s, now_s
                )
            order.asked_s = now_s
        with order.lock:
            return self._state(message, order)

    def _state(self, message: HeavyWork, order: _Order) -> WorkState:
        width = self._width()
        if not order.task.done():
            return WorkState(status="running", share=order.share, width=width)
        try:
            result = order.task.result(timeout=_RESULT_S)
        except TimeoutError:
            return WorkState(status="running", share=order.share, width=width)
        except self._lost as error:
            if order.tries == _TRIES:
                return WorkState(
                    status="failed", width=width, error=errors.work_lost(order.what, _TRIES, error)
                )
            order.tries += 1
            order.share = 0.0
            order.task = self._submit(message.identity, message.job_id, order.work)
            return WorkState(status="running", width=width)
        except Exception as error:
            return WorkState(status="failed", width=width, error=alone(error))
        return WorkState(status="done", share=1.0, width=width, result=result)

    def share(self, message: WorkShare) -> Done:
        """Note how far a work is.

        Raises:
            JobError: `GV-793`, nobody wants it any more.
        """
        with self._lock:  # a task may be faster than the note that it began
            order = self._orders.get(message.job_id)
        if order is None or not order.wanted:
            raise errors.work_unwanted(message.job_id)
        order.share = message.share
        return Done()

    def lines(self, identity: str) -> list[dict[str, Any]]:
        """Return a line for each work of a database that is under way, as jobs are shown."""
        found = []
        for job_id, order in list(self._orders.items()):
            if order.identity == identity and not order.task.done():
                taken_s = time.monotonic() - order.begun_s
                left_s = taken_s * (1 - order.share) / order.share if order.share > 0.02 else None
                found.append(
                    {
                        "id": job_id,
                        "what": order.what,
                        "status": "running",
                        "progress": order.share,
                        "parts_done": 0,
                        "parts": 1,
                        "eta_s": left_s,
                    }
                )
        return found

    def close(self) -> None:
        """Have nothing done any more."""
        with self._lock:
            for job_id in list(self._orders):
                self._end(job_id)

    def _end(self, job_id: str) -> None:
        order = self._orders.pop(job_id, None)
        if order is not None:
            order.wanted = False
            order.task.cancel()

    def _sweep(self, now_s: float) -> None:
        """Let go of works whose owners are silent."""
        with self._lock:
            late = [n for n, o in self._orders.items() if o.asked_s < now_s - _FORGOTTEN_S]
            for job_id in late:
                self._end(job_id)


class Elsewhere:
    """Has heavy work of an owner done by the cluster; see `gpuvec.api.heavy.Workplace`.

    Args:
        engine: of the owner.
    """

    def __init__(self, engine: "NodeEngine") -> None:
        self._engine = engine
        self.width = 1  # as the coordinator said last

    def look(self) -> int:
        """See `Workplace.look`; what was known before, where the coordinator is away."""
        identity = str(self._engine.store.identity)
        try:
            state = self._engine.ask(
                HeavyWork(identity=identity, job_id="", what=""), deadline_s=_ASK_S
            )
        except (errors.UnavailableError, errors.DeadlineError, errors.QuotaError):
            return self.width
        self.width = max(1, state.width)
        return self.width

    def takes(self, work: Work) -> bool:
        """See `Workplace.takes`."""
        large = work.size_bytes >= int(config["cluster.task_bytes"])
        return large and self._engine.usable  # what is done at its end is done here

    def do(self, work: Work, progress: Callable[[float], None]) -> Any:
        """See `Workplace.do`.

        Raises:
            What the work raised; UnavailableError: `GV-792`, workers were lost again and again.
        """
        message = HeavyWork(
            identity=str(self._engine.store.identity), job_id=work.job_id, what=work.what
        )
        said: HeavyWork = replace(message, work=work)
        share, wait_s = 0.0, _POLL_S[0]
        try:
            while True:
                progress(share)
                try:
                    state: WorkState = self._engine.ask(said, deadline_s=_ASK_S)
                except (errors.UnavailableError, errors.DeadlineError, errors.QuotaError):
                    time.sleep(_AWAY_S)  # it is away: the next one is told all
                    continue
                self.width, share = max(1, state.width), state.share
                said = message
                if state.status == "done":
                    return state.result
                if isinstance(state.error, Stopped):  # a former owner did not want it any more
                    self._leave(message)
                elif state.error is not None:
                    raise state.error
                if state.status in ("unknown", "failed"):
                    said = replace(message, work=work)
                    continue
                time.sleep(wait_s)
                wait_s = min(_POLL_S[1], 1.5 * wait_s)
        finally:
            self._leave(message)

    def _leave(self, message: HeavyWork) -> None:
        """Say that it is not wanted any more: it is known, or it never will be."""
        try:
            self._engine.ask(replace(message, wanted=False), deadline_s=1.0)
        except errors.GpuvecError:
            return  # it forgets of itself


def perform(engine: "NodeEngine", job_id: str, work: Work, memory_bytes: int) -> Any:
    """Do a work on this node, one at a time; return what came of it.

    Args:
        engine: of the database, here.
        job_id: the work's name.
        work: see `Work`.
        memory_bytes: that it may take.
    """
    with engine.bench:
        session = replace(new_session(), memory_limit=memory_bytes)
        return work.run(engine, session, _Teller(engine, job_id))


class _Teller:
    """Tells the coordinator how far a work is; ends it where nobody can want it any more."""

    def __init__(self, engine: "NodeEngine", job_id: str) -> None:
        self._engine = engine
        self._job_id = job_id
        self._told_s = float("-inf")

    def __call__(self, share: float) -> None:
        now_s = time.monotonic()
        if now_s < self._told_s + _TELL_S:
            return
        self._told_s = now_s
        identity = str(self._engine.store.identity)
        try:
            self._engine.ask(
                WorkShare(identity=identity, job_id=self._job_id, share=share), deadline_s=2.0
            )
        except (errors.JobError, errors.UnavailableError):
            raise Stopped from None  # the scheduler that waits for the task is gone
        except errors.GpuvecError:
            return  # it hears of it later
