"""Which collections a node owns, by the coordinator's word, and until when it may believe that.

Terms order all words about a collection, also those of different coordinators. A lease comes only
from the answer to a report, and runs from the moment at which that report was *sent*, so it never
ends later here than the coordinator counts; while it lasts nobody else is named. Afterwards the
node may go on to write, which the fence in the log decides; it must not claim, and must look at the
manifest before it answers a read as the owner. So it must after it was granted a collection anew,
until it has claimed it under the new term: another owner may have been in between.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gpuvec import errors
from gpuvec.cluster_messages import Disown, Own
from gpuvec.types import NodeId

NEVER = float("-inf")


@dataclass(slots=True)
class _Grant:
    generation: int
    term: int
    lease_s: float
    until_s: float = NEVER
    claimed: int = 0  # the term under which its channels were claimed


class Grants:
    """The grants of one node for one database. Safe for use by several threads.

    Args:
        node: for messages.
        now_s: monotonic seconds.
    """

    def __init__(self, node: NodeId, now_s: Callable[[], float]) -> None:
        self._node = node
        self._now_s = now_s
        self._held: dict[str, _Grant] = {}
        self._newest: dict[str, int] = {}  # the highest term that was heard of
        self._generation = 0  # the highest that was heard of

    def own(self, order: Own) -> bool:
        """Note a grant, which has no lease yet; return whether it is news.

        One of a lower term comes too late, and changes nothing.

        Raises:
            UnavailableError: `GV-745`, a coordinator says so who was replaced.
        """
        self._check(order)
        if order.term <= self._newest.get(order.collection_id, 0):
            return False
        self._newest[order.collection_id] = order.term
        held = self._held.get(order.collection_id)
        until_s, claimed = (NEVER, 0) if held is None else (held.until_s, held.claimed)
        self._held[order.collection_id] = _Grant(
            order.generation, order.term, order.lease_s, until_s, claimed
        )
        return True

    def end(self, order: Disown) -> bool:
        """Note that a grant is over: nothing that needs it begins from here on; return whether.

        Raises:
            UnavailableError: `GV-745`, a coordinator says so who was replaced.
        """
        self._check(order)
        held = self._held.get(order.collection_id)
        if held is not None and order.term < held.term:
            return False
        newest = self._newest.get(order.collection_id, 0)
        self._newest[order.collection_id] = max(newest, order.term)
        self._held.pop(order.collection_id, None)
        return True

    def _check(self, order: Own | Disown) -> None:
        if order.generation < self._generation:
            raise errors.older_generation(got=order.generation, newest=self._generation)
        self._generation = order.generation

    def drop(self, collection_id: str) -> None:
        """Note that another owner, or a newer coordinator, was met in the log."""
        self._held.pop(collection_id, None)

    def heard(self, sent_s: float, renewed: Mapping[str, int]) -> None:
        """Note the answer to a report that was sent at `sent_s`, and the terms that go on."""
        for collection_id, term in renewed.items():
            grant = self._held.get(collection_id)
            if grant is not None and grant.term == term:
                grant.until_s = max(grant.until_s, sent_s + grant.lease_s)

    def generation(self, collection_id: str) -> int:
        """Return the generation under which the node writes to a collection.

        Raises:
            UnavailableError: `GV-741`, it does not own it.
        """
        grant = self._held.get(collection_id)
        if grant is None:
            raise errors.not_owner(collection_id, self._node)
        return grant.generation

    def check_term(self, collection_id: str, term: int) -> None:
        """Refuse a caller who knows of a later owner than this node, `GV-741`."""
        grant = self._held.get(collection_id)
        if grant is None or term > grant.term:
            raise errors.not_owner(collection_id, self._node)

    def term(self, collection_id: str) -> int:
        """Return the newest term that was heard of: also of a grant that is just ending."""
        return self._newest.get(collection_id, 0)

    def permit(self, collection_id: str) -> None:
        """Let a claim begin, unless somebody else can be the owner, `GV-741`."""
        grant = self._held.get(collection_id)
        if grant is None or not self.is_sure(collection_id):
            raise errors.not_owner(collection_id, self._node)
        grant.claimed = grant.term

    def is_sure(self, collection_id: str) -> bool:
        """Return whether a grant's lease lasts: nobody else is named meanwhile."""
        grant = self._held.get(collection_id)
        return grant is not None and self._now_s() < grant.until_s

    def knows_all(self, collection_id: str) -> bool:
        """Return whether what was claimed is all there is, so that no read need look."""
        grant = self._held.get(collection_id)
        return grant is not None and grant.claimed == grant.term and self.is_sure(collection_id)

    def is_old_claim(self, collection_id: str) -> bool:
        """Return whether a claim under the present term would spare reads a look."""
        grant = self._held.get(collection_id)
        return grant is not None and 0 < grant.claimed < grant.term and self.is_sure(collection_id)

    def __contains__(self, collection_id: str) -> bool:
        return collection_id in self._held

    def terms(self) -> dict[str, int]:
        """Return the term of each collection that is owned."""
        return {name: grant.term for name, grant in list(self._held.items())}
