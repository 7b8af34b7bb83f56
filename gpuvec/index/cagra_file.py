"""The file of a CAGRA graph: which rows are near which, whatever device made it or searches it.

`graph` (nodes, degree) int32: neighbours of each node, -1 where there are fewer; nodes are the rows
with a vector, in their order. `rows` (nodes,) int64 says which those are; it lacks where they are
all. The rows themselves are the segment's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuvec.index.base import IndexFile
from gpuvec.index.ivf_file import read_arrays, write_arrays
from gpuvec.storage.object_store import Buffer

GRAPH_FILE, VERSION = "graph.bin", 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CagraGraph:
    """A graph of near rows.

    Attributes:
        edges: (nodes, degree) int32 on the host; see above.
        rows: (nodes,) int64, rising; None: node i is row i.
        maker: what made it, for people.
    """

    edges: NDArray[np.int32]
    rows: NDArray[np.int64] | None
    maker: str

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return self.edges.nbytes + (0 if self.rows is None else self.rows.nbytes)

    def files(self) -> Mapping[str, Sequence[Buffer]]:
        """See `ApproximateIndex.files`."""
        arrays = {"graph": self.edges} | ({} if self.rows is None else {"rows": self.rows})
        return {GRAPH_FILE: write_arrays(VERSION, {"maker": self.maker}, arrays)}


def read_graph(files: Mapping[str, IndexFile]) -> CagraGraph:
    """Return the graph of an index's files, as it lies in them.

    Raises:
        UnsupportedError: `GV-330`, it is of another version.
        CorruptError: `GV-331`, it is no such file, or cut off.
    """
    facts, arrays = read_arrays(files[GRAPH_FILE].data, VERSION)
    return CagraGraph(edges=arrays["graph"], rows=arrays.get("rows"), maker=facts["maker"])
