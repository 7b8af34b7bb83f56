"""An index on a device, asked with arrays of the host and answering in them."""

from typing import Any

from gpuvec.device.arrays import to_device
from gpuvec.index.base import Neighbors, Queries
from gpuvec.index.keep import Keep, as_bits
from gpuvec.kernels.bitset import BitSet
from gpuvec.types import Array


class FromHost:
    """Moves questions up and answers down; all else is the index's own.

    Args:
        index: a `VectorIndex` or an `ApproximateIndex` on a device.
    """

    def __init__(self, index: Any) -> None:
        self._index = index
        self._held: tuple[Keep | None, BitSet | None] = (None, None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    def search(
        self,
        queries: Queries,
        k: int,
        *,
        keep: Keep | None = None,
        tie_rank: Array | None = None,
        bound: Array | None = None,
        **options: Any,
    ) -> Neighbors:
        """See `ApproximateIndex.search`. A mask goes up once as long as the same one is given."""
        held = self._held
        if keep is not held[0]:
            held = self._held = keep, as_bits(keep)
        found: Neighbors = self._index.search(
            to_device(queries, "queries"),
            k,
            keep=held[1],
            tie_rank=None if tie_rank is None else to_device(tie_rank, "scalars"),
            bound=None if bound is None else to_device(bound, "queries"),
            **options,
        )
        return found.to_host()
