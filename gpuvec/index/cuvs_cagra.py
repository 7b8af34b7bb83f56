"""CAGRA and the exact scan by cuVS, over float16 rows.

cuVS looks at the rows that it is given and at the graph where they lie: finders keep both. With
one random start per query, recall falls on clustered data, so there are eight.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.device.arrays import array_namespace, to_device
from gpuvec.index.cagra_file import CagraGraph
from gpuvec.index.cuvs_library import found_nodes, neighbors_module, prefilter, waiting
from gpuvec.index.device_engine import Finder, Nodes
from gpuvec.index.device_space import TILE, DeviceSpace
from gpuvec.index.spec import CAGRA
from gpuvec.kernels.bitset import BitSet
from gpuvec.types import Array

_SAMPLINGS = 8  # random starts of a walk
_MOST = 512  # candidates; beyond, cuVS searches with many blocks for each query
_ALIGNED = 16  # bytes that rows end at in cuVS's memory
_HASH = 2654435761  # a multiplier that scatters whole numbers


class CuvsCagra:
    """See `Engine`.

    Args:
        spec: every parameter decided.
        graph: that was built before; None: it is built of the nodes.
    """

    name = "cuvs"
    by_rows = False
    sees_masks = True
    most = _MOST

    def __init__(self, spec: CAGRA, graph: CagraGraph | None = None) -> None:
        self._spec = spec
        self._graph = graph
        self.least_nodes = max(1024, 4 * spec.intermediate_graph_degree)

    def size_bytes(self, nodes: int, width: int) -> int:
        """See `Engine.size_bytes`: the graph, rows, and another copy where they are not aligned."""
        row = -(-2 * width // _ALIGNED) * _ALIGNED
        copies = 1 if row == 2 * width else 2
        return nodes * (4 * self._spec.graph_degree + copies * row)

    def making_bytes(self, nodes: int, width: int) -> int:
        """See `Engine.making_bytes`: tiles of rows and of the graph."""
        return min(nodes, TILE) * (16 * width + 32 * self._spec.graph_degree)

    def build_bytes(self, nodes: int, width: int) -> int:
        """Return the bytes on the device while a graph is built: the one before it is wider."""
        wide = max(self._spec.intermediate_graph_degree, self._spec.graph_degree)
        return self.size_bytes(nodes, width) + 2 * nodes * 8 * wide

    def make(self, nodes: Nodes) -> "CagraFinder":
        """See `Engine.make`."""
        cagra, xp = neighbors_module("cagra"), array_namespace(nodes.space.center)
        rows = _all_rows(nodes)
        with waiting() as handle:
            if self._graph is None:
                params = cagra.IndexParams(
                    metric=nodes.space.metric_name,
                    intermediate_graph_degree=self._spec.intermediate_graph_degree,
                    graph_degree=self._spec.graph_degree,
                    build_algo="nn_descent",
                )
                index, edges = cagra.build(params, rows, resources=handle), None
            else:
                edges = whole_graph(self._graph.edges, xp)
                index = cagra.from_graph(
                    edges, rows, metric=nodes.space.metric_name, resources=handle
                )
        return CagraFinder(cagra, index, (edges, rows), nodes.space, nodes.count, xp)


class CagraFinder:
    """See `Finder`."""

    def __init__(
        self, library: Any, index: Any, kept: Any, space: DeviceSpace, count: int, xp: Any
    ) -> None:
        self._library = library
        self._index = index
        self._kept = kept  # the index looks at these
        self._space = space
        self._count = count
        self._xp = xp

    def edges(self) -> Array:
        """Return the graph, (nodes, degree) uint32 on the device, copied."""
        return self._xp.asarray(self._index.graph).copy()

    def find(
        self, queries: Array, count: int, knobs: Mapping[str, float], keep: BitSet | None
    ) -> Array:
        """See `Finder.find`."""
        seen = self._space.queries(queries)
        params = self._library.SearchParams(
            itopk_size=max(int(knobs["itopk_size"]), count), num_random_samplings=_SAMPLINGS
        )
        search = partial(
            self._library.search, params, self._index, seen, count, filter=prefilter(keep)
        )
        return found_nodes(search, seen, count, self._count, dtype="uint32")


class CuvsScan:
    """See `Engine`: every row is measured, at half precision."""

    name = "cuvs"
    by_rows = False
    sees_masks = True
    most = 2048
    least_nodes = 1

    def size_bytes(self, nodes: int, width: int) -> int:
        """See `Engine.size_bytes`: rows and their lengths."""
        return nodes * (2 * width + 4)

    def making_bytes(self, nodes: int, width: int) -> int:
        """See `Engine.making_bytes`."""
        return min(nodes, TILE) * 16 * width

    def make(self, nodes: Nodes) -> Finder:
        """See `Engine.make`."""
        library, rows = neighbors_module("brute_force"), _all_rows(nodes)
        with waiting() as handle:
            index = library.build(rows, metric=nodes.space.metric_name, resources=handle)
        return _Scan(library, index, rows, nodes.space)


class _Scan:
    """See `Finder`."""

    def __init__(self, library: Any, index: Any, rows: Array, space: DeviceSpace) -> None:
        self._library = library
        self._index = index
        self._rows = rows  # the index looks at them
        self._space = space

    def find(
        self, queries: Array, count: int, knobs: Mapping[str, float], keep: BitSet | None
    ) -> Array:
        """See `Finder.find`."""
        del knobs
        seen = self._space.queries(queries)
        search = partial(self._library.search, self._index, seen, count, prefilter=prefilter(keep))
        return found_nodes(search, seen, count, len(self._rows))


def whole_graph(edges: NDArray[np.int32], xp: Any) -> Array:
    """Return a graph without gaps on the device, as cuVS wants it: (nodes, degree) uint32.

    Args:
        edges: (nodes, degree) int32 on the host, -1 for none. These become edges to rows that are
            scattered over all of them, the same every time.
        xp: CuPy.
    """
    nodes, degree = edges.shape
    whole = xp.empty((nodes, degree), xp.uint32)
    for start in range(0, nodes, TILE):
        part = to_device(edges[start : start + TILE], "index")
        at = xp.arange(start * degree, start * degree + part.size, dtype=xp.uint64)
        other = ((at * xp.uint64(_HASH)) >> xp.uint64(16)) % xp.uint64(nodes)
        other = other.reshape(part.shape).astype(xp.uint32)
        whole[start : start + TILE] = xp.where(part < 0, other, part.astype(xp.uint32))
    return whole


def _all_rows(nodes: Nodes) -> Array:
    """Return all nodes as the index sees them, (count, dim) float16."""
    xp = array_namespace(nodes.space.center)
    rows = xp.empty((nodes.count, int(nodes.space.center.shape[0])), xp.float16)
    for start in range(0, nodes.count, TILE):
        stop = min(nodes.count, start + TILE)
        rows[start:stop] = nodes.seen(start, stop)
    return rows
