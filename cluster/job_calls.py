"""Batch jobs as a client of a cluster sees them: the coordinator has them done."""

from typing import Protocol

from gpuvec.query.session import Session


class _Calls(Protocol):
    def call_coordinator(self, method: str, **arguments: object) -> object: ...


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
