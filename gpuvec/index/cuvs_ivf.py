"""Lists by cuVS: IVF-Flat, IVF-SQ and IVF-PQ over float16 rows.

Centers and codes are learned from a sample, and rows are added tile by tile under their own
numbers, so a list of codes can be made of more rows than the card holds. IVF-PQ sees no masks.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from gpuvec.device.arrays import array_namespace
from gpuvec.index.cuvs_library import found_nodes, neighbors_module, prefilter, waiting
from gpuvec.index.device_engine import Finder, Nodes
from gpuvec.index.device_space import TILE, DeviceSpace
from gpuvec.index.faiss_ivfpq import DEVICE_BITS, pq_shape
from gpuvec.index.spec import IVFPQ, IVFSQ8, IVFFlat
from gpuvec.kernels.bitset import BitSet
from gpuvec.types import Array

_PER_CENTER = 64  # rows that a center is learned from
_LEAST_SAMPLE = 1 << 14
_LIST_SLACK = 1.5  # lists are longer than their rows: they grow by halves, and end in whole blocks
_MOST = 2048  # candidates
_MODULES = {"ivf_flat": "ivf_flat", "ivf_sq8": "ivf_sq", "ivf_pq": "ivf_pq"}


class CuvsLists:
    """See `Engine`.

    Args:
        spec: the number of lists decided.
    """

    name = "cuvs"
    by_rows = False
    most = _MOST
    least_nodes = 1024

    def __init__(self, spec: IVFFlat | IVFSQ8 | IVFPQ) -> None:
        self._spec = spec
        self._module = _MODULES[spec.KIND]
        self.sees_masks = not isinstance(spec, IVFPQ)

    def size_bytes(self, nodes: int, width: int) -> int:
        """See `Engine.size_bytes`."""
        n_lists = int(self._spec.n_lists or 1)
        if isinstance(self._spec, IVFPQ):
            dims, bits = pq_shape(self._spec, width, bits=DEVICE_BITS)
            row = -(-dims * bits // 8)
            books = 4 * width * ((1 << bits) + width)  # and the matrix that turns rows
        else:
            row, books = width * (2 if isinstance(self._spec, IVFFlat) else 1), 0
        return int(_LIST_SLACK * nodes * (row + 8)) + n_lists * (12 * width + 256) + books

    def making_bytes(self, nodes: int, width: int) -> int:
        """See `Engine.making_bytes`: the sample, in cuVS's float32 too, and tiles of rows."""
        return 8 * width * self._sample_size(nodes) + 16 * width * min(nodes, TILE)

    def _sample_size(self, nodes: int) -> int:
        return min(nodes, max(_PER_CENTER * int(self._spec.n_lists or 1), _LEAST_SAMPLE))

    def make(self, nodes: Nodes) -> Finder:
        """See `Engine.make`."""
        library = neighbors_module(self._module)
        xp = array_namespace(nodes.space.center)
        n_lists = min(int(self._spec.n_lists or 1), nodes.count)
        size = self._sample_size(nodes.count)
        chosen = (xp.arange(size) * nodes.count) // size  # evenly, so the same every time
        with waiting() as handle:
            sample = nodes.seen_at(chosen)
            index = library.build(
                self._params(library, nodes.space, n_lists), sample, resources=handle
            )
            for start in range(0, nodes.count, TILE):
                stop = min(nodes.count, start + TILE)
                rows, numbers = nodes.seen(start, stop), xp.arange(start, stop, dtype=xp.int64)
                index = library.extend(index, rows, numbers, resources=handle)
                handle.sync()  # before the tile's memory holds other rows
        return _Lists(library, index, nodes.space, nodes.count, masks=self.sees_masks)

    def _params(self, library: Any, space: DeviceSpace, n_lists: int) -> Any:
        """Return cuVS's parameters of lists that are learned from all they are given."""
        metric = space.metric_name
        if isinstance(self._spec, IVFSQ8):
            return library.IndexParams(n_lists=n_lists, metric=metric, add_data_on_build=False)
        if isinstance(self._spec, IVFFlat):
            return library.IndexParams(
                n_lists=n_lists,
                metric=metric,
                kmeans_trainset_fraction=1.0,
                add_data_on_build=False,
            )
        dims, bits = pq_shape(self._spec, int(space.center.shape[0]), bits=DEVICE_BITS)
        if dims * bits % 8:
            dims += 1  # cuVS wants whole bytes
        return library.IndexParams(
            n_lists=n_lists,
            metric=metric,
            kmeans_trainset_fraction=1.0,
            pq_bits=bits,
            pq_dim=dims,
            add_data_on_build=False,
        )


class _Lists:
    """See `Finder`."""

    def __init__(
        self, library: Any, index: Any, space: DeviceSpace, count: int, *, masks: bool
    ) -> None:
        self._library = library
        self._index = index
        self._space = space
        self._count = count
        self._masks = masks

    def find(
        self, queries: Array, count: int, knobs: Mapping[str, float], keep: BitSet | None
    ) -> Array:
        """See `Finder.find`."""
        seen = self._space.queries(queries)
        probes = min(int(knobs["n_probes"]), int(self._index.n_lists))
        params = self._library.SearchParams(n_probes=probes)
        search = partial(self._library.search, params, self._index, seen, count)
        if self._masks:
            search = partial(search, filter=prefilter(keep))
        return found_nodes(search, seen, count, self._count)
