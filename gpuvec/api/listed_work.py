"""`ListedWork`: heavy work of a database as a `Job`, whichever process does it."""

import time
from typing import TYPE_CHECKING

from gpuvec import errors
from gpuvec.api.job import Job, Status
from gpuvec.messages import WorkLine

if TYPE_CHECKING:
    from gpuvec.api.engine import Engine

_FRESH_S = 0.2  # so long an answer counts
_POLL_S = 0.2


class ListedWork:
    """See `gpuvec.api.job.Work`; its result is None, what was made is in the collection.

    Args:
        engine: of the database.
        line: as it was told first.
    """

    def __init__(self, engine: "Engine", line: WorkLine) -> None:
        self._engine = engine
        self._line = line
        self._is_known = True
        self._looked_s = time.monotonic()

    @property
    def what(self) -> str:
        """See `Work.what`."""
        return self._line.what

    @property
    def kind(self) -> str:
        """`index`, `compaction` or `import`."""
        return self._line.kind

    @property
    def collection(self) -> str | None:
        """The name of the collection; None: it is gone."""
        return self._engine.root().name_of(self._line.collection_id)

    @property
    def begun_ms(self) -> int:
        """When it began."""
        return self._line.begun_ms

    def status(self) -> Status:
        """See `Work.status`; `interrupted`: its process ended, or it ended long ago."""
        line = self._look()
        if line.status == "running" and not self._is_known:
            return "interrupted"
        return line.status

    def share(self) -> float:
        """See `Work.share`."""
        return self._look().share

    def eta(self) -> float | None:
        """Return seconds until it is done; None: not known."""
        return self._look().eta_s

    def pause(self, timeout_s: float) -> None:
        """See `Work.pause`."""
        time.sleep(min(timeout_s, _POLL_S))

    def result(self) -> None:
        """Return, or raise why nothing came of it.

        Raises:
            JobError: `GV-622` it was cancelled, `GV-627` it failed, or nobody tells of it any more.
        """
        status = self.status()
        if status == "cancelled":
            raise errors.job_cancelled(self.what)
        if status != "done":
            raise errors.work_failed(self.what, self._line.problem)

    def cancel(self) -> None:
        """See `Work.cancel`.

        Raises:
            UnsupportedError: `GV-626`, work of this kind cannot be cancelled from here.
        """
        self._engine.works.cancel(self._line)
        self._looked_s = float("-inf")

    def details(self) -> dict[str, object]:
        """Return what is known of it, for people."""
        line = self._look()
        return {
            "id": line.job_id,
            "kind": line.kind,
            "collection": self.collection,
            "status": self.status(),
            "progress": f"{line.share:.0%}",
            "parts": "",
            "what": line.what,
            "output": None,
            "eta_s": line.eta_s,
            "failure": line.problem or None,
        }

    def _look(self) -> WorkLine:
        now_s = time.monotonic()
        if self._line.status == "running" and now_s >= self._looked_s + _FRESH_S:
            known = {line.job_id: line for line in self._engine.works.lines()}
            found = known.get(self._line.job_id)
            self._is_known, self._looked_s = found is not None, now_s
            self._line = found or self._line
        return self._line


def listed(engine: "Engine") -> list[Job[None]]:
    """Return the heavy work of a database that runs or ended of late, the newest first."""
    lines = sorted(engine.works.lines(), key=lambda line: line.begun_ms, reverse=True)
    return [Job(line.job_id, ListedWork(engine, line)) for line in lines]
