"""Batch jobs and heavy work as a client of a cluster sees them: others do them."""

from typing import Any, Protocol

from gpuvec.messages import WorkLine
from gpuvec.query.session import Session


class _Calls(Protocol):
    def call_coordinator(self, method: str, **arguments: object) -> Any: ...

    def call_owner(
        self, collection_id: str, method: str, *arguments: object, **options: object
    ) -> Any: ...


class RemoteJobs:
    """See `gpuvec.api.job_host.JobHost`.

    Args:
        engine: of the client.
    """

    by_cluster = True

    def __init__(self, engine: _Calls) -> None:
        self._engine = engine

    def launch(self, job_id: str, session: Session) -> None:
        """See `JobHost.launch`."""
        self._engine.call_coordinator("run_job", job_id=job_id)

    def run_of(self, job_id: str) -> None:
        """See `JobHost.run_of`."""

    def stop(self) -> None:
        """See `JobHost.stop`: jobs go on without this client."""


class RemoteWorks:
    """Heavy work of all nodes; see `gpuvec.api.works.WorkList`.

    Args:
        engine: of the client.
    """

    def __init__(self, engine: _Calls) -> None:
        self._engine = engine

    def lines(self) -> list[WorkLine]:
        """See `WorkList.lines`: what nodes said in their last report, `REPORT_S` ago."""
        found: list[WorkLine] = self._engine.call_coordinator("works")
        return found

    def cancel(self, line: WorkLine) -> None:
        """See `WorkList.cancel`: at the owner of the collection."""
        self._engine.call_owner(line.collection_id, "cancel_work", line)
