"""How FAISS's lists hold rows: whole, or a byte a value; codes of other modules have the same face.

A `Codec` makes empty lists that rows are encoded for, turns them into the form that searches want,
and says what all that takes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.index.faiss_library import HEADER_BYTES, faiss_library
from gpuvec.index.faiss_space import ITEM_BYTES, Space
from gpuvec.index.spec import IndexSpec
from gpuvec.storage.object_store import Buffer

_TO_SAMPLE = 64  # rows that a center is learned from, of all it has


class Codec:
    """Rows as `Space` stores them. Others inherit and say what differs.

    Args:
        space: how FAISS sees rows and queries.
        width: dimensions of a row.
    """

    def __init__(self, space: Space, width: int) -> None:
        self.space = space
        self.width = width

    @property
    def seen_width(self) -> int:
        """Dimensions of what FAISS sees."""
        return self.width

    def decided(self, spec: IndexSpec) -> IndexSpec:
        """Return the spec with every parameter that the codes decide."""
        return spec

    def rows(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return rows (n, width) as FAISS takes them, (n, seen_width) float32."""
        return self.space.rows(values)

    def queries(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return queries (m, width) as FAISS takes them, (m, seen_width) float32."""
        return self.space.queries(queries)

    def sample_size(self, n_lists: int, rows: int) -> int:
        """Return how many rows centers and codes are learned from."""
        return min(rows, max(_TO_SAMPLE * n_lists, 1024))

    def lists(
        self,
        quantizer: Any,
        n_lists: int,
        sample: NDArray[np.float32],
        centers: NDArray[np.float32],
        threads: int,
    ) -> Any:
        """Return empty lists that rows can be encoded for.

        Args:
            quantizer: FAISS's flat index of `centers`.
            n_lists: centers.
            sample: (s, seen_width) rows in random order, to learn codes from.
            centers: (n_lists, seen_width).
            threads: 0: all cores.
        """
        del centers, threads
        faiss, metric = faiss_library(), self.space.faiss_metric
        if self.space.code_type is None:
            return faiss.IndexIVFFlat(quantizer, self.width, n_lists, metric)
        lists = faiss.IndexIVFScalarQuantizer(
            quantizer, self.width, n_lists, self.space.code_type, metric, False
        )  # as they are, not relative to centers
        lists.sq.train(sample if len(sample) else np.zeros((1, self.width), np.float32))
        return lists

    def packed(self, lists: Any) -> Any:
        """Return full lists in the form that is searched and written."""
        return lists

    def prepare(self, lists: Any) -> None:
        """Work out what searches need besides, once lists were opened."""

    def files(self) -> Mapping[str, Sequence[Buffer]]:
        """Return files that the lists' file does not tell."""
        return {}

    def index_bytes(self, rows: int, n_lists: int) -> int:
        """Return bytes of the finished lists' file."""
        return rows * (self.row_bytes + 8) + self.center_bytes(n_lists)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's codes."""
        return self.width * ITEM_BYTES[self.space.codes]

    def center_bytes(self, n_lists: int) -> int:
        """Return bytes of centers, and of what a file holds besides."""
        return n_lists * (4 * self.seen_width + 8) + HEADER_BYTES // 16

    def table_bytes(self, rows: int, n_lists: int) -> int:
        """Return bytes in memory that are no part of the files."""
        del rows, n_lists
        return 0

    def packing_bytes(self, rows: int, n_lists: int) -> int:
        """Return bytes that `packed` holds beside the lists it was given."""
        del rows, n_lists
        return 0

    def query_bytes(self, probes: int) -> int:
        """Return bytes that FAISS takes for one query, beside its answer."""
        del probes
        return 0
