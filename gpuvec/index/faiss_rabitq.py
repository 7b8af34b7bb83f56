"""Lists of rows with one bit a dimension, or a few: RaBitQ, by FAISS.

Rows and queries are turned at random first, which the codes' error bound rests on; what they are
turned by lies beside the lists. One bit is compared for 32 rows at once in registers; with more
FAISS's plain scan is the faster one.

Source: Gao, Long, arXiv 2405.12497; Gao et al., arXiv 2409.09913.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.index.faiss_codes import Codec
from gpuvec.index.faiss_library import faiss_library
from gpuvec.index.faiss_space import Space
from gpuvec.storage.object_store import Buffer

TURN_FILE = "turn.f32"
_BLOCK = 32  # rows that are compared at once
_FACTORS = {1: 8, 2: 16}  # bytes beside a row's bits; more bits take as many as two do


class RabitqCodec(Codec):
    """Bits of turned rows.

    Args:
        space: see `Codec`.
        width: see `Codec`.
        bits: of each dimension.
        turn: (width, width) float32, orthogonal; None: a random one.
    """

    def __init__(
        self, space: Space, width: int, bits: int, turn: NDArray[np.float32] | None = None
    ) -> None:
        super().__init__(space, width)
        self.bits = bits
        self.turn = random_turn(width) if turn is None else turn

    def rows(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """See `Codec.rows`."""
        return self.space.rows(values) @ self.turn

    def queries(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Codec.queries`."""
        return self.space.queries(queries) @ self.turn

    def lists(
        self,
        quantizer: Any,
        n_lists: int,
        sample: NDArray[np.float32],
        centers: NDArray[np.float32],
        threads: int,
    ) -> Any:
        """See `Codec.lists`. There is nothing to learn."""
        del sample, centers, threads
        metric = self.space.faiss_metric
        return faiss_library().IndexIVFRaBitQ(
            quantizer, self.width, n_lists, metric, True, self.bits
        )

    def packed(self, lists: Any) -> Any:
        """See `Codec.packed`."""
        return faiss_library().IndexIVFRaBitQFastScan(lists, _BLOCK) if self.bits == 1 else lists

    def files(self) -> Mapping[str, Sequence[Buffer]]:
        """See `Codec.files`."""
        return {TURN_FILE: [self.turn]}

    @property
    def row_bytes(self) -> int:
        """See `Codec.row_bytes`."""
        return row_bytes(self.width, self.bits)

    def index_bytes(self, rows: int, n_lists: int) -> int:
        """See `Codec.index_bytes`: with one bit, half a block of each list is empty."""
        more = n_lists * (_BLOCK // 2) * self.row_bytes if self.bits == 1 else 0
        return super().index_bytes(rows, n_lists) + more

    def table_bytes(self, rows: int, n_lists: int) -> int:
        """See `Codec.table_bytes`."""
        del rows, n_lists
        return self.turn.nbytes

    def packing_bytes(self, rows: int, n_lists: int) -> int:
        """See `Codec.packing_bytes`."""
        return self.index_bytes(rows, n_lists) if self.bits == 1 else 0

    def query_bytes(self, probes: int) -> int:
        """See `Codec.query_bytes`."""
        return probes * (8 * self.width + 64)


def row_bytes(width: int, bits: int) -> int:
    """Return bytes of a row's codes."""
    return bits * -(-width // 8) + _FACTORS[min(bits, 2)]


def random_turn(width: int) -> NDArray[np.float32]:
    """Return a random orthogonal matrix, (width, width) float32; always the same one."""
    values = np.random.default_rng(0).normal(size=(width, width))
    turn, scale = np.linalg.qr(values)
    found: NDArray[np.float32] = np.ascontiguousarray(turn * np.sign(np.diag(scale)), np.float32)
    return found
