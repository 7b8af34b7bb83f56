"""Answers of nodes, kept by what was asked about which version; so never wrong, only forgotten.

A plan fixes entry, version and what has outlived its time, and files do not change: the same
question about the same plan has the same answer for ever. A write makes another version, a flush or
an index another entry.
"""

import hashlib
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from gpuvec import telemetry
from gpuvec.data_messages import ReadPlan
from gpuvec.proxy.placing import Unit
from gpuvec.query.spread import Answered, Question

Key = tuple[str, int, int, int, bytes]  # collection, entry, version, time, digest of the rest
_LARGEST = 8  # part of the budget, that one answer may take


class ResultCache:
    """The answers that were used last, within a budget. Safe for use by several threads.

    Args:
        budget_bytes: asked at each use; 0: nothing is kept.
    """

    def __init__(self, budget_bytes: Callable[[], int]) -> None:
        self._budget_bytes = budget_bytes
        self._kept: OrderedDict[Key, tuple[list[Answered], int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def is_used(self) -> bool:
        """Whether there is a budget."""
        return self._budget_bytes() > 0

    @property
    def size_bytes(self) -> int:
        """Of what is kept."""
        return self._bytes

    def answers(
        self,
        plan: ReadPlan,
        question: Question,
        units: Sequence[Unit],
        ask: Callable[[], list[Answered]],
    ) -> list[Answered]:
        """Return what `ask` returns, or returned when the same was asked before.

        Cost: with a budget, one pass over the question's arrays.
        """
        budget = self._budget_bytes()
        if not budget:
            return ask()
        key = _key(plan, question, units)
        with self._lock:
            if (found := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
        if found is not None:
            telemetry.CACHE_HITS.add(1, "results")
            return list(found[0])
        telemetry.CACHE_MISSES.add(1, "results")
        answers = ask()
        self._keep(key, list(answers), budget)
        return answers

    def forget(self, collection_id: str) -> None:
        """Let go of the answers about a collection: a node no longer stands by one of them."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == collection_id]:
                self._bytes -= self._kept.pop(key)[1]

    def _keep(self, key: Key, answers: list[Answered], budget: int) -> None:
        size = _size_bytes(answers)
        if size > budget // _LARGEST:
            return
        with self._lock:
            old = self._kept.pop(key, None)
            self._bytes += size - (0 if old is None else old[1])
            self._kept[key] = answers, size
            while self._bytes > budget:
                self._bytes -= self._kept.popitem(last=False)[1][1]


def _key(plan: ReadPlan, question: Question, units: Sequence[Unit]) -> Key:
    digest = hashlib.blake2b(digest_size=16)
    asked = (question, sorted(units, key=str))
    arrays: list[pickle.PickleBuffer] = []
    digest.update(pickle.dumps(asked, protocol=5, buffer_callback=arrays.append))
    for array in arrays:
        raw = array.raw()
        digest.update(raw.nbytes.to_bytes(8, "little"))
        digest.update(raw)
    return plan.collection_id, plan.entry_id, plan.version, plan.now_ms, digest.digest()


def _size_bytes(answers: Sequence[Answered]) -> int:
    arrays: list[pickle.PickleBuffer] = []
    head = pickle.dumps(list(answers), protocol=5, buffer_callback=arrays.append)
    return len(head) + sum(array.raw().nbytes for array in arrays)
