"""Heavy work as Dask tasks: from the scheduler's process to any worker; see `maintenance`."""

import warnings
from typing import Any

from distributed import KilledWorker
from distributed.comm.core import CommClosedError

from gpuvec.api.heavy import Work
from gpuvec.cluster.jobs import Tasks
from gpuvec.cluster.maintenance import Ending, Workshop, perform
from gpuvec.cluster.segment_host import engine_of, node_here

_TASK_SHARE = 0.5  # of the memory that segments may take: what a task may take beside them


def workshop(tasks: Tasks) -> Workshop:
    """Return what has works done as tasks of a cluster."""

    def submit(identity: str, job_id: str, work: Work) -> Ending:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sending large graph")  # deletes, once
            task: Ending = tasks.submit(_perform, identity, job_id, work)
            return task

    return Workshop(submit, tasks.width, (KilledWorker, CommClosedError))


def _perform(identity: str, job_id: str, work: Work) -> Any:
    memory_bytes = int(_TASK_SHARE * node_here().hello.memory_bytes)
    return perform(engine_of(identity), job_id, work, memory_bytes)
