"""What clients have the owner of a collection do: its methods, and the jobs that these begin."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpuvec import errors
from gpuvec.api.collection import Collection
from gpuvec.api.database import open_collection
from gpuvec.api.job import Job, Status
from gpuvec.api.tuning import Tuning
from gpuvec.cluster.warned import gathered
from gpuvec.cluster_messages import Called, CallOwner
from gpuvec.messages import WorkLine
from gpuvec.query.session import Session
from gpuvec.settings import config

if TYPE_CHECKING:
    from gpuvec.cluster.node_engine import NodeEngine

METHODS = (
    "add_field", "drop_field", "drop_partition", "truncate", "set_ttl", "flush", "drop_index",
    "tune", "compact", "vacuum", "tag", "untag", "restore", "set_retention", "refresh",
)  # fmt: skip
JOBS = ("create_index", "bulk_import")
REPEATABLE = frozenset(
    {
        "flush",
        "tune",
        "compact",
        "vacuum",
        "refresh",
        "create_index",
        "figures",
        "index_reports",
        "expect",
        "make_partition",
        "job",
        "steer_job",
        "cancel_work",
    }
)  # done twice, they do what they do once; the next owner is asked where one is lost
SETTINGS = ("store.grace_s", "store.retention_s")  # those of the client count
_REMEMBERED = 1000  # jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A job that runs at the owner.

    Attributes:
        job_id: its name there.
        what: the work, for people.
        size: rows or bytes that it has to do.
        is_new: whether this call began it.
    """

    job_id: str
    what: str
    size: int
    is_new: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """How a job stands."""

    status: Status
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainTuning:
    """A `Tuning` whose frames are tables."""

    field: str
    source: str
    table: Any
    points: Any


class AtOwner:
    """Runs what clients ask the owner for. Safe for use by several threads.

    Args:
        engine: owns the collections.
        session: threads and memory of what runs here.
    """

    def __init__(self, engine: "NodeEngine", session: Session) -> None:
        self._engine = engine
        self._session = session
        self._jobs: OrderedDict[str, Job[Any]] = OrderedDict()
        self._lock = threading.Lock()
        self._others: dict[str, Callable[..., Any]] = {
            "expect": self._expect,
            "figures": self._figures,
            "index_reports": lambda collection: collection._index_reports(),
            "make_partition": lambda collection, name: collection._partition(name),
            "job": self._job,
            "steer_job": self._steer_job,
            "cancel_work": self._cancel_work,
        }

    def call(self, message: CallOwner, deadline_s: float) -> Called:
        """Return what a method returns, as values, and the warnings that it gave.

        Raises:
            GpuvecError: what the method raises.
            UnsupportedError: `GV-746`, there is no such method for clients.
        """
        collection = open_collection(self._engine, message.collection_id, self._session)
        name = message.method
        with gathered() as told, config.lent(message.settings):
            if name in JOBS:
                value = self._begin(getattr(collection, name), message)
            elif name in METHODS and hasattr(collection, name):
                value = getattr(collection, name)(*message.arguments, **message.options)
            elif name in self._others:
                value = self._others[name](collection, *message.arguments, **message.options)
            else:
                raise errors.not_from_here(name)
        stamp = self._engine.snapshot(message.collection_id).version
        return Called(value=_plain(value), warnings=tuple(told), stamp=stamp)

    def _begin(self, method: Callable[..., Job[Any]], message: CallOwner) -> Ticket:
        job = method(*message.arguments, **{**message.options, "wait": False})
        with self._lock:
            self._jobs[job.id] = job
            if len(self._jobs) > _REMEMBERED:
                self._jobs.popitem(last=False)
        work: Any = job._work
        return Ticket(job_id=job.id, what=work.what, size=work.size, is_new=work.is_new)

    def _job(self, _: Collection, job_id: str, action: str) -> Any:
        """Return how a job stands ("look"), or what came of it ("result")."""
        job = self._found(job_id)
        return job.wait(0) if action == "result" else _state(job)

    def _steer_job(self, _: Collection, job_id: str, action: str) -> JobState:
        """End a job ("cancel"), or let it go on ("resume")."""
        job = self._found(job_id)
        if action == "cancel":
            job.cancel()
        else:
            job.resume()
        return _state(job)

    def _found(self, job_id: str) -> Job[Any]:
        job = self._jobs.get(job_id)
        if job is None:
            raise errors.job_lost("job", job_id)
        return job

    def _cancel_work(self, _: Collection, line: WorkLine) -> None:
        self._engine.own_works.cancel(line)

    def _expect(self, collection: Collection, name: str) -> None:
        """Call a collection that is being filled by the name that it will have."""
        self._engine.names.expect(collection._id, name)

    def _figures(self, collection: Collection) -> dict[str, float]:
        return self._engine.maintenance.figures(collection._id)


def _state(job: Job[Any]) -> JobState:
    return JobState(status=job.status, share=job.progress)


def _plain(value: Any) -> Any:
    """Return what travels: values without frames."""
    if isinstance(value, Tuning):
        table, points = value.table.to_arrow(), value.points.to_arrow()
        return PlainTuning(field=value.field, source=value.source, table=table, points=points)
    return value
