"""How many workers a cluster needs: from the memory, the queues and the latency of its databases.

Source of the shape: targets are proportional to load with a dead band, as in Kubernetes' horizontal
autoscaler; growing is quick, shrinking slow and one worker at a time.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

_FULL = 0.8  # of memory that segments shall take
_BUSY = 2.0  # calls per thread, waiting and running, beyond which workers are added
_WANTED_BUSY = 1.0
_IDLE = 0.3  # below which one can be spared
_SHRINK_S = 60.0  # how long it must have been idle
_COMING_S = 120.0  # for a worker that was asked for to come
_MOST_GROWTH = 2  # times what there is, at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a database asks of a cluster.

    Attributes:
        wanted_bytes: of segments, all replicas.
        queue: calls that wait or run, smoothed, over all nodes that stay.
        threads: of these.
        latency_s: the p95 of the slowest.
        budgets: memory of each, in bytes.
    """

    wanted_bytes: int
    queue: float
    threads: int
    latency_s: float
    budgets: tuple[int, ...]


class WorkerTarget:
    """Turns demands into a number of workers. Owns no clock.

    A number that was asked for stays asked for until it is there, as autoscalers want it: they act
    on what they hear several times, and end a worker that is still coming when they hear less.

    Args:
        latency_s: p95 that shall not be passed; None: it does not matter.
    """

    def __init__(self, *, latency_s: float | None = None) -> None:
        self._latency_s = latency_s
        self._workers = 0
        self._busy_s = 0.0  # when it was last seen not to be idle, or with other workers
        self._asked = 0
        self._asked_s = 0.0  # when that was last needed

    def wanted(self, demands: Iterable[Demand], now_s: float) -> int:
        """Return how many workers there shall be; at least one.

        Queue, threads, latency and budgets are those of the nodes, so the same in each demand.
        """
        found = list(demands)
        if not found:
            return 1
        one = found[0]
        workers = len(one.budgets)
        if not workers:
            return 1
        if workers != self._workers:
            self._workers, self._busy_s, self._asked_s = workers, now_s, now_s
        typical = one.budgets[workers // 2]
        for_memory = ceil(sum(d.wanted_bytes for d in found) / max(1.0, _FULL * typical))
        busy = one.queue / max(1, one.threads)
        if busy >= _IDLE:
            self._busy_s = now_s
        if busy > _BUSY or (self._latency_s is not None and one.latency_s > self._latency_s):
            by_queue = ceil(workers * busy / _WANTED_BUSY)
            self._asked = min(max(by_queue, workers + 1), _MOST_GROWTH * workers)
            self._asked_s = now_s
        elif now_s >= self._busy_s + _SHRINK_S:
            self._asked = workers - 1
        elif now_s >= self._asked_s + _COMING_S:
            self._asked = workers
        else:
            self._asked = max(self._asked, workers)
        self._asked = max(1, self._asked, for_memory)
        return self._asked
