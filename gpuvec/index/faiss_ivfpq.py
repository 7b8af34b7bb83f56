"""Lists of product-quantised rows: a few bits for every few dimensions, learned from the data.

With 4 bits FAISS compares 32 rows at once in registers ("fast scan"); with 8 its lists are of the
plain form, which a GPU reads too. Fast scan never finds what it rounds to the worst value, which is
one row, or all where they are alike: few rows are scanned plainly. Where rows are compared by
distance, each list has tables of its own; they are made beforehand where they take no more memory
than the codes. Dimensions that do not part evenly are filled up with zeros.

Source: Jégou, Douze, Schmid, PAMI 2011; André, Kermarrec, Le Scouarnec, VLDB 2015.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.index.faiss_centers import nearest_centers, train_centers
from gpuvec.index.faiss_codes import Codec
from gpuvec.index.faiss_library import faiss_library
from gpuvec.index.faiss_space import Space
from gpuvec.index.spec import IVFPQ, IndexSpec
from gpuvec.kernels.parallel import run_parallel

_FAST = 4  # bits that are compared in registers
_FAST_FROM = 1024  # rows
_BLOCK = 32  # rows that are compared at once
_PER_CODE = 64  # rows that an entry of a codebook is learned from
GPU_DIMS = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)  # FAISS without cuVS
HOST_BITS, DEVICE_BITS = 4, 8


def pq_shape(spec: IVFPQ, width: int, *, bits: int = HOST_BITS) -> tuple[int, int]:
    """Return codes per row and bits of a code: what was wanted, else about 2 bits a dimension."""
    bits = spec.pq_bits or bits
    if spec.pq_dim is not None:
        return min(spec.pq_dim, width), bits
    if bits == _FAST:
        return max(1, -(-width // 2)), bits
    return max(dim for dim in GPU_DIMS if dim <= max(1, width // 4)), bits


class PqCodec(Codec):
    """Codes of products.

    Args:
        space: see `Codec`.
        width: see `Codec`.
        shape: codes per row, and bits of a code.
    """

    def __init__(self, space: Space, width: int, shape: tuple[int, int]) -> None:
        super().__init__(space, width)
        self.pq_dim, self.pq_bits = shape

    @property
    def seen_width(self) -> int:
        """See `Codec.seen_width`."""
        return -(-self.width // self.pq_dim) * self.pq_dim

    @property
    def row_bytes(self) -> int:
        """See `Codec.row_bytes`; fast scan wants whole bytes of pairs."""
        return -(-self.pq_dim * self.pq_bits // 8)

    def _is_fast(self, rows: int) -> bool:
        return self.pq_bits == _FAST and rows >= _FAST_FROM

    def decided(self, spec: IndexSpec) -> IndexSpec:
        """See `Codec.decided`."""
        assert isinstance(spec, IVFPQ)
        return replace(spec, pq_dim=self.pq_dim, pq_bits=self.pq_bits)

    def rows(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """See `Codec.rows`."""
        return self._padded(self.space.rows(values))

    def queries(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Codec.queries`. Fast scan finds nothing by a product with zeros: any query does."""
        found = self.space.queries(queries)
        if self.space.product:
            nothing = ~found.any(axis=1)
            if nothing.any():
                found = found.copy()
                found[nothing] = 1
        return self._padded(found)

    def _padded(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        more = self.seen_width - self.width
        return np.pad(values, ((0, 0), (0, more))) if more else values

    def sample_size(self, n_lists: int, rows: int) -> int:
        """See `Codec.sample_size`."""
        return min(rows, max(super().sample_size(n_lists, rows), _PER_CODE << self.pq_bits))

    def lists(
        self,
        quantizer: Any,
        n_lists: int,
        sample: NDArray[np.float32],
        centers: NDArray[np.float32],
        threads: int,
    ) -> Any:
        """See `Codec.lists`. The same codebooks on any number of threads."""
        faiss = faiss_library()
        lists = faiss.IndexIVFPQ(
            quantizer, self.seen_width, n_lists, self.pq_dim, self.pq_bits, self.space.faiss_metric
        )
        lists.use_precomputed_table = -1  # nothing is searched before it is packed and opened
        books = self._codebooks(sample, centers, threads)
        faiss.copy_array_to_vector(books.ravel(), lists.pq.centroids)
        return lists

    def _codebooks(
        self, sample: NDArray[np.float32], centers: NDArray[np.float32], threads: int
    ) -> NDArray[np.float32]:
        """Return (pq_dim, 2 ** pq_bits, seen_width / pq_dim) entries, of rows less their center."""
        entries, each = 1 << self.pq_bits, self.seen_width // self.pq_dim
        some = sample[: max(_PER_CODE * entries, 1024)]
        rest = some
        if len(some):
            rest = some - centers[nearest_centers(some, centers, threads=threads)]

        def learn(part: int) -> NDArray[np.float32]:
            own = np.ascontiguousarray(rest[:, part * each : (part + 1) * each])
            return train_centers(own, entries, unit=False, threads=1)

        return np.stack(run_parallel(learn, range(self.pq_dim), threads))

    def packed(self, lists: Any) -> Any:
        """See `Codec.packed`."""
        if not self._is_fast(int(lists.ntotal)):
            return lists
        return faiss_library().IndexIVFPQFastScan(lists, _BLOCK)

    def prepare(self, lists: Any) -> None:
        """See `Codec.prepare`; fast scan makes its tables itself."""
        if not self._is_fast(int(lists.ntotal)):
            wanted = self.table_bytes(int(lists.ntotal), int(lists.nlist)) > 0
            lists.use_precomputed_table = 0 if wanted else -1
            lists.precompute_table()

    def index_bytes(self, rows: int, n_lists: int) -> int:
        """See `Codec.index_bytes`: with fast scan, half a block of each list is empty."""
        books = 4 * (self.seen_width << self.pq_bits)
        more = n_lists * (_BLOCK // 2) * self.row_bytes if self._is_fast(rows) else 0
        return super().index_bytes(rows, n_lists) + books + more

    def table_bytes(self, rows: int, n_lists: int) -> int:
        """See `Codec.table_bytes`."""
        if self.space.product:
            return 0
        table = n_lists * self.pq_dim * (4 << self.pq_bits)
        return table if self._is_fast(rows) or table <= rows * self.row_bytes else 0

    def packing_bytes(self, rows: int, n_lists: int) -> int:
        """See `Codec.packing_bytes`."""
        if not self._is_fast(rows):
            return 0
        return self.index_bytes(rows, n_lists) + self.table_bytes(rows, n_lists)

    def query_bytes(self, probes: int) -> int:
        """See `Codec.query_bytes`: a table for each query, or each of its lists."""
        tables = 1 if self.space.product else probes
        return tables * self.pq_dim * (5 << self.pq_bits)
