"""Owners of a simulated log that end in other ways than most."""

from gpuvec.storage.object_store import Procedure
from gpuvec.testing.sim_log import LogSimulation
from gpuvec.wal.log import WriteAheadLog


class ClosingSimulation(LogSimulation):
    """Owners that live to their end note where their log ends, though they may have lost it."""

    def leave(self, wal: WriteAheadLog) -> Procedure[None]:
        """Close the log."""
        yield from wal.close()
