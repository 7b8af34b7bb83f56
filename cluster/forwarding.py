"""Collections of a cluster, as clients have them: what changes them runs at their owner.

Each method has the name, the arguments and the meaning of the one in `Collection`. Frames among the
arguments are collected first, and relative paths made whole, since they belong to this process.
"""

import functools
import os
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

from gpuvec.api.collection import Collection
from gpuvec.api.external import WRITES, ExternalCollection
from gpuvec.api.frame import Frame, frame
from gpuvec.api.index_report import IndexReport
from gpuvec.api.indexes import show_building
from gpuvec.api.job import Job
from gpuvec.api.progress import progress
from gpuvec.api.source import WriteResult
from gpuvec.api.tuning import Tuning
from gpuvec.cluster.at_owner import METHODS, PlainTuning, Ticket
from gpuvec.cluster.client_engine import ClusterEngine
from gpuvec.cluster.remote_job import RemoteWork
from gpuvec.node.loader import AUTO
from gpuvec.storage.outside import kind_of_place, open_outside

_POLL_S = 0.1


class _Forwarded:
    """What both kinds of collections do at their owner."""

    _engine: ClusterEngine
    _id: str

    def create_index(
        self,
        field: str,
        index: Any = AUTO,
        *,
        recall: float = 0.95,
        k: int = 10,
        max_memory: int | str | None = None,
        wait: bool = True,
    ) -> "IndexReport | Job[IndexReport]":
        """See `Collection.create_index`; indexes are built by the nodes."""
        options = {"recall": recall, "k": k, "max_memory": max_memory}

        def is_wanted(job_id: str) -> bool:
            wish = self._engine.state(self._id).indexes.get(field)
            return wish is not None and wish.index_id == job_id

        work = self._begin(is_wanted, "create_index", field, index, **options)
        job: Job[IndexReport] = Job(work.job_id, work)
        if not wait:
            return job
        try:
            if job.status == "running":
                show_building(work, job)
            return job.wait()
        except KeyboardInterrupt:
            if work.is_new:
                job.cancel()
            raise

    def bulk_import(
        self,
        glob: str | PathLike[str],
        *,
        columns: Mapping[str, str | None] | None = None,
        partition: str | None = None,
        on_conflict: str = "error",
        storage_options: Mapping[str, Any] | None = None,
        wait: bool = True,
    ) -> "WriteResult | Job[WriteResult]":
        """See `Collection.bulk_import`; the owner reads the files."""
        options = {
            "columns": columns, "partition": partition, "on_conflict": on_conflict,
            "storage_options": storage_options,
        }  # fmt: skip
        work = self._begin(lambda _: True, "bulk_import", _whole_path(glob), **options)
        job: Job[WriteResult] = Job(work.job_id, work)
        if not wait:
            return job
        try:
            with progress("import", work.size, "bytes") as advance:
                _show_bytes(work, job, advance)
            return job.wait()
        except KeyboardInterrupt:
            job.cancel()
            raise

    def _begin(
        self, is_wanted: Callable[[str], bool], method: str, *arguments: Any, **options: Any
    ) -> RemoteWork:
        def begin() -> Ticket:
            ticket: Ticket = self._engine.call_owner(self._id, method, *arguments, **options)
            return ticket

        return RemoteWork(self._engine, self._id, begin, is_wanted)

    def _partition(self, name: str | None) -> str:
        """Return a partition to write to; the owner makes a new one."""
        if name is None:
            return ""
        found: str = self._engine.call_owner(self._id, "make_partition", name)
        return found

    def _index_reports(self) -> list[IndexReport]:
        """Return the reports of all indexes, with failures as the owner knows them."""
        found: list[IndexReport] = self._engine.call_owner(self._id, "index_reports")
        return found


def _show_bytes(work: RemoteWork, job: "Job[Any]", advance: Callable[[int], None]) -> None:
    shown = 0
    while job.status == "running":
        done = int(job.progress * work.size)
        if done > shown:
            advance(done - shown)
            shown = done
        work.pause(_POLL_S)
    if job.status == "done":
        advance(work.size - shown)


def _whole_path(glob: Any) -> str:
    """Return a path, URL or glob that means the same in a process elsewhere."""
    text = os.fspath(glob)
    return open_outside(text)[1] if kind_of_place(text) == "file" else text


def _at_owner(name: str, model: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(model)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        plain = [_plain(argument) for argument in arguments]
        named = {key: _plain(value) for key, value in options.items()}
        if name == "vacuum":
            self._engine.leases.tend(at_once=True)  # this process's `at` handles stay readable
        return _own(self._engine.call_owner(self._id, name, *plain, **named))

    return call


def _plain(value: Any) -> Any:
    """Return an argument that pickles: of a frame, its rows."""
    return value.to_arrow() if isinstance(value, Frame) else value


def _own(value: Any) -> Any:
    """Return an answer with the frames of this process."""
    if isinstance(value, PlainTuning):
        return Tuning(
            field=value.field,
            source=value.source,
            table=frame(value.table),
            points=frame(value.points),
        )
    return value


class ClusterCollection(_Forwarded, Collection):  # type: ignore[misc]  # no overloads
    """A collection of a cluster; see `Collection`."""


class ClusterExternalCollection(_Forwarded, ExternalCollection):  # type: ignore[misc]
    """A collection of a cluster that reads files of others; see `ExternalCollection`."""


def _install() -> None:
    for name in METHODS:
        for kind, base in (
            (ClusterCollection, Collection),
            (ClusterExternalCollection, ExternalCollection),
        ):
            model = getattr(base, name, None)
            if model is not None and not (base is ExternalCollection and name in WRITES):
                setattr(kind, name, _at_owner(name, model))
    ClusterExternalCollection.bulk_import = ExternalCollection.bulk_import  # type: ignore[assignment]


_install()
