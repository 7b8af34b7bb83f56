"""`RemoteWork`: a job that runs at the owner of a collection, as its client sees it.

The owner may change. What a job has done is in the store, so the same call at the new owner goes on
with it, under the same name; unless somebody wished for something else meanwhile.
"""

import time
from collections.abc import Callable
from typing import Any

from gpuvec import errors
from gpuvec.api.job import Status
from gpuvec.cluster.at_owner import JobState, Ticket
from gpuvec.cluster.client_engine import ClusterEngine

_FRESH_S = 0.05  # so long an answer counts
_LOST = "GV-747"


class RemoteWork:
    """See `gpuvec.api.job.Work`.

    Args:
        engine: of the client.
        collection_id: whose owner does it.
        begin: has the owner begin, or go on.
        is_wanted: whether the job of that name is still what the collection wants.
    """

    def __init__(
        self,
        engine: ClusterEngine,
        collection_id: str,
        begin: Callable[[], Ticket],
        is_wanted: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._engine = engine
        self._id = collection_id
        self._begin = begin
        self._is_wanted = is_wanted
        ticket = begin()
        self.job_id = ticket.job_id
        self.what = ticket.what
        self.rows = self.size = max(1, ticket.size)
        self.is_new = ticket.is_new
        self._seen: tuple[float, JobState] | None = None

    def status(self) -> Status:
        """See `Work.status`."""
        return self._look().status

    def share(self) -> float:
        """See `Work.share`."""
        return self._look().share

    def pause(self, timeout_s: float) -> None:
        """See `Work.pause`."""
        time.sleep(min(timeout_s, _FRESH_S))

    def result(self) -> Any:
        """See `Work.result`."""
        return self._ask("result")

    def cancel(self) -> None:
        """See `Work.cancel`."""
        self._ask("cancel", "steer_job")

    def resume(self) -> None:
        """Go on where it was."""
        self._ask("resume", "steer_job")

    def _look(self) -> JobState:
        seen = self._seen
        if seen is not None and (seen[1].status != "running" or _is_fresh(seen[0])):
            return seen[1]
        found: JobState = self._ask("look")
        self._seen = time.monotonic(), found
        return found

    def _ask(self, action: str, method: str = "job") -> Any:
        self._seen = None
        try:
            return self._engine.call_owner(self._id, method, self.job_id, action)
        except errors.JobError as error:
            if error.code != _LOST:
                raise
        if not self._is_wanted(self.job_id):
            raise errors.job_cancelled(self.what)
        if self._begin().job_id != self.job_id:
            raise errors.job_lost(self.what, self.job_id)
        return self._engine.call_owner(self._id, method, self.job_id, action)


def _is_fresh(seen_s: float) -> bool:
    return time.monotonic() - seen_s < _FRESH_S
