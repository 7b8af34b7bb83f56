"""The last plan of each collection: what bounded reads take as it is, and others as a guess."""

from dataclasses import dataclass

from gpuvec.data_messages import ReadPlan
from gpuvec.proxy.consistency import Guarantee

STEADY = 1  # plans in a row that were as the one before, until the next is taken to be


@dataclass(frozen=True, slots=True)
class _Known:
    plan: ReadPlan
    looked_s: float  # when it was known to be the newest one
    steady: int


class Plans:
    """What was planned last. Safe for use by several threads: entries are replaced, not changed."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def note(self, plan: ReadPlan, wanted: Guarantee, asked_s: float) -> None:
        """Take in a plan of the newest version, that was asked for at a time."""
        known = self._known.get(plan.collection_id)
        steady = 0 if known is None or known.plan != plan else known.steady + 1
        looked_s = asked_s if wanted.looked else float("-inf")
        if steady and known is not None:
            looked_s = max(looked_s, known.looked_s)
        self._known[plan.collection_id] = _Known(plan, looked_s, steady)

    def fresh(self, collection_id: str, wanted: Guarantee, now_s: float) -> ReadPlan | None:
        """Return a plan that needs no asking; None: there is none."""
        known = self._known.get(collection_id)
        if known is None or not _fits(known.plan, wanted):
            return None
        return known.plan if now_s - known.looked_s < wanted.reuse_s else None

    def last(self, collection_id: str, wanted: Guarantee) -> tuple[ReadPlan, bool] | None:
        """Return the last plan, and whether it seems to stay as it is; None: it is too old."""
        known = self._known.get(collection_id)
        if known is None or not _fits(known.plan, wanted):
            return None
        return known.plan, known.steady >= STEADY

    def forget(self, collection_id: str) -> None:
        """Let go of a plan that no longer holds."""
        self._known.pop(collection_id, None)


def _fits(plan: ReadPlan, wanted: Guarantee) -> bool:
    return plan.version >= wanted.seen
