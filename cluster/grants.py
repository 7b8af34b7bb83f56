"""Which collections a node owns, by the coordinator's word, and until when it may believe that.

A grant is ordered by (generation, term). Its lease runs from the moment at which the node *sent* a
report that was answered, so it never ends later here than the coordinator counts. While it lasts
nobody else is named. Afterwards the node may go on to write, which the log's fence decides; it must
not claim, and must look at the manifest before it answers a read as the owner.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gpuvec import errors
from gpuvec.cluster_messages import Disown, Own
from gpuvec.types import NodeId

NEVER = float("-inf")


@dataclass(slots=True)
class _Grant:
    order: tuple[int, int]  # generation, term
    lease_s: float
    until_s: float


class Grants:
    """The grants of one node for one database. Safe for use by several threads.

    Args:
        node: for messages.
        now_s: monotonic seconds.
    """

    def __init__(self, node: NodeId, now_s: Callable[[], float]) -> None:
        self._node = node
        self._now_s = now_s
        self._heard_s = NEVER  # when the newest report that was answered had been sent
        self._held: dict[str, _Grant] = {}
        self._newest: dict[str, tuple[int, int]] = {}  # order of the newest word, also of an end

    def own(self, order: Own) -> None:
        """Note a grant; said twice, it is one.

        Raises:
            UnavailableError: `GV-745`, a newer order came before.
        """
        given = order.generation, order.term
        self._check(order.collection_id, given)
        self._newest[order.collection_id] = given
        until_s = self._heard_s + order.lease_s
        self._held[order.collection_id] = _Grant(given, order.lease_s, until_s)

    def end(self, order: Disown) -> None:
        """Note that a grant is over: from here on nothing begins that needs it.

        Raises:
            UnavailableError: `GV-745`, a newer order came before.
        """
        given = order.generation, order.term
        self._check(order.collection_id, given)
        self._newest[order.collection_id] = given
        self._held.pop(order.collection_id, None)

    def _check(self, collection_id: str, given: tuple[int, int]) -> None:
        newest = self._newest.get(collection_id, given)
        if given < newest:
            raise errors.older_term(collection_id, got=given, newest=newest)

    def drop(self, collection_id: str) -> None:
        """Note that another owner, or a newer coordinator, was met in the log."""
        self._held.pop(collection_id, None)

    def heard(self, sent_s: float, renewed: Mapping[str, int]) -> None:
        """Note the answer to a report that was sent at `sent_s`, and the terms that go on."""
        self._heard_s = max(self._heard_s, sent_s)
        for collection_id, term in renewed.items():
            grant = self._held.get(collection_id)
            if grant is not None and grant.order[1] == term:
                grant.until_s = max(grant.until_s, sent_s + grant.lease_s)

    def generation(self, collection_id: str) -> int:
        """Return the generation under which the node writes to a collection.

        Raises:
            UnavailableError: `GV-741`, it does not own it.
        """
        grant = self._held.get(collection_id)
        if grant is None:
            raise errors.not_owner(collection_id, self._node)
        return grant.order[0]

    def check_term(self, collection_id: str, term: int) -> None:
        """Refuse a caller who knows of a later owner than this node, `GV-741`."""
        grant = self._held.get(collection_id)
        if grant is None or term > grant.order[1]:
            raise errors.not_owner(collection_id, self._node)

    def permit(self, collection_id: str) -> None:
        """Refuse a claim unless nobody else can be the owner, `GV-741`."""
        if not self.is_sure(collection_id):
            raise errors.not_owner(collection_id, self._node)

    def is_sure(self, collection_id: str) -> bool:
        """Return whether a grant's lease lasts."""
        grant = self._held.get(collection_id)
        return grant is not None and self._now_s() < grant.until_s

    def __contains__(self, collection_id: str) -> bool:
        return collection_id in self._held

    def terms(self) -> dict[str, int]:
        """Return the term of each collection that is owned."""
        return {name: grant.order[1] for name, grant in list(self._held.items())}
