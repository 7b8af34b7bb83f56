"""What is told of indexes under way: one work for each wish, of all segments that wait."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from gpuvec.api.works import Entry, Works, said_of
from gpuvec.coord.data_coord import BuildIndex


@dataclass(slots=True)
class _Wish:
    entry: Entry
    total: int  # rows
    done: float = 0.0
    shares: dict[BuildIndex, float] = field(default_factory=dict)  # of builds under way

    def tell(self) -> None:
        under_way = sum(share * build.rows for build, share in self.shares.items())
        self.entry.share = min(1.0, (self.done + under_way) / max(1, self.total))


class ToldBuilds:
    """Sums the builds of segments up. Its owner holds a lock.

    Args:
        works: told of them.
    """

    def __init__(self, works: Works) -> None:
        self._works = works
        self._wishes: dict[str, _Wish] = {}

    def begun(self, build: BuildIndex, waiting: Iterable[BuildIndex]) -> None:
        """Note that a segment's index is begun.

        Args:
            build: of which segment and wish.
            waiting: all builds of the collection, also those under way.
        """
        wish = self._wishes.get(build.definition_id)
        if wish is None:
            entry = self._works.begin(
                "index", build.collection_id, f'index of "{build.field}"',
                job_id=build.definition_id, can_cancel=False,
            )  # fmt: skip
            wish = self._wishes[build.definition_id] = _Wish(entry, 0)
        left = sum(b.rows for b in waiting if b.definition_id == build.definition_id)
        wish.total = max(wish.total, round(wish.done) + left)
        wish.shares[build] = 0.0

    def tell(self, build: BuildIndex, share: float) -> None:
        """Note how far the index of a segment is."""
        wish = self._wishes.get(build.definition_id)
        if wish is not None and build in wish.shares:
            wish.shares[build] = share
            wish.tell()

    def ended(
        self,
        build: BuildIndex,
        error: Exception | None,
        *,
        waiting: Iterable[BuildIndex],
        status: str,
    ) -> None:
        """Note that a build ended.

        Args:
            build: which.
            error: why it failed.
            waiting: what is left of the collection.
            status: of the wish: `wanted`; `unwanted`; `elsewhere`: another process goes on with it.
        """
        wish = self._wishes.get(build.definition_id)
        if wish is None:
            return
        del wish.shares[build]
        left = [b for b in waiting if b.definition_id == build.definition_id]
        if error is None and build not in left:
            wish.done += build.rows
        wish.tell()
        if wish.shares:
            return
        if status == "elsewhere":
            self._works.forget(build.definition_id)
        elif status == "unwanted":
            wish.entry.end("cancelled")
        elif error is not None:
            wish.entry.end("failed", said_of(error))
        elif left:
            return  # the next one is begun
        else:
            wish.entry.end("done")
        del self._wishes[build.definition_id]
