"""What FAISS sees of vectors: its metric, the form that rows and queries take, how rows are stored.

FAISS knows no cosine, so rows of length 1 are compared by inner product. Rows may be stored at half
precision where that loses no neighbour: what is found is measured again anyway. Its 8-bit "direct"
codes are not used: they round the *query* to 8 bits too, and wrap where it does not fit.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.device.arrays import as_float32
from gpuvec.index.faiss_library import faiss_library, view_of
from gpuvec.once import cached_property
from gpuvec.rows import DenseVectors
from gpuvec.types import Metric

_TILE = 1 << 14  # rows looked at together
_UNIT_SLACK = 1e-3  # lengths this near to 1 change no order that is not measured again
_TINY, _HUGE = 1e-12, 1e12  # squared lengths of queries between these need no care
_VIEWED = ("float32", "float16", "bfloat16")  # FAISS reads rows of these where they lie
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}  # of a stored value


@dataclass(frozen=True, kw_only=True)
class Space:
    """How FAISS sees dense vectors.

    Attributes:
        product: whether rows are compared by inner product; otherwise by squared distance.
        codes: how values are stored: "float32", "float16", "bfloat16", or "int8" (trained).
        factor: what rows are multiplied by; None: each is brought to length 1.
        shared: whether rows as they are serve as well.
    """

    product: bool
    codes: str
    factor: float | None
    shared: bool

    def rows(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return rows (n, dim) as FAISS takes them: float32, C-contiguous."""
        found: NDArray[np.float32] = as_float32(values)
        if self.factor == 1.0:
            return found
        if self.factor is not None:
            return (found * np.float64(self.factor)).astype(np.float32)
        return unit_rows(found)

    def queries(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return queries (m, dim) as FAISS takes them; products must not over- or underflow."""
        found = np.ascontiguousarray(queries)
        if not self.product or len(found) == 0:
            return found
        squares = np.einsum("ij,ij->i", found, found)  # inf where it overflows
        least, most = (squares[0],) * 2 if len(found) == 1 else (squares.min(), squares.max())
        fine = least > _TINY and most < _HUGE
        return found if fine else unit_rows(found)

    @cached_property
    def faiss_metric(self) -> int:
        """FAISS's name of the comparison."""
        faiss = faiss_library()
        return int(faiss.METRIC_INNER_PRODUCT if self.product else faiss.METRIC_L2)

    @property
    def code_type(self) -> int | None:
        """FAISS's name of the codes; None for float32, which it keeps as it is."""
        scalar = faiss_library().ScalarQuantizer
        return {
            "float32": None,
            "float16": int(scalar.QT_fp16),
            "bfloat16": int(scalar.QT_bf16),
            "int8": int(scalar.QT_8bit),
        }[self.codes]

    def view(self, values: NDArray[Any]) -> Any:
        """Return FAISS's flat index over rows as they lie in memory; they must be kept."""
        faiss = faiss_library()
        width = int(values.shape[1])
        if self.code_type is None:
            flat = faiss.IndexFlat(width, self.faiss_metric)
        else:
            flat = faiss.IndexScalarQuantizer(width, self.code_type, self.faiss_metric)
            flat.is_trained = True
        flat.codes = view_of(values)
        flat.ntotal = len(values)
        return flat


def space_of(vectors: DenseVectors, metric: Metric, *, share: bool) -> Space:
    """Choose how FAISS shall see vectors.

    Args:
        vectors: dense numbers on the host.
        metric: a dense one.
        share: whether the index can look at rows where they lie, if their form allows it.

    Cost: cosine and ip read all rows once.
    """
    name = vectors.values.dtype.name
    whole = vectors.valid is None or bool(vectors.valid.all())
    viewed = share and whole and name in _VIEWED and vectors.values.flags.c_contiguous
    own = name if name in _VIEWED else "float16"  # which holds 8-bit numbers without loss
    if metric in (Metric.L2, Metric.SQEUCLIDEAN):
        return Space(product=False, codes=own, factor=1.0, shared=viewed)
    least, most = _lengths(vectors)
    if metric is Metric.IP:
        factor = 1.0 / most if most > 0 and np.isfinite(most) else 1.0
        return Space(
            product=True,
            codes=own if viewed else "float16",
            factor=1.0 if viewed else factor,
            shared=viewed,
        )
    viewed = viewed and least > 1 - _UNIT_SLACK and most < 1 + _UNIT_SLACK
    return Space(
        product=True,
        codes=own if viewed else "float16",
        factor=1.0 if viewed else None,
        shared=viewed,
    )


def unit_rows(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring rows to length 1; rows of zeros stay."""
    squares = np.einsum("ij,ij->i", values, values, dtype=np.float64)
    scale = np.divide(1.0, np.sqrt(squares), out=np.zeros_like(squares), where=squares > 0)
    found: NDArray[np.float32] = (values * scale[:, None]).astype(np.float32)
    return found


def search_space(vectors: DenseVectors, *, product: bool) -> Space:
    """Return the space of an index that was read: enough for its queries."""
    name = vectors.values.dtype.name
    codes = name if name in _VIEWED else "float16"
    return Space(product=product, codes=codes, factor=1.0, shared=name in _VIEWED)


def _lengths(vectors: DenseVectors) -> tuple[float, float]:
    """Return the shortest and the longest length of the rows that are not null."""
    least, most = np.inf, 0.0
    for start in range(0, len(vectors), _TILE):
        tile = vectors.slice(start, start + _TILE)
        values = as_float32(tile.values)
        squares = np.einsum("ij,ij->i", values, values, dtype=np.float64)
        squares = squares if tile.valid is None else squares[tile.valid]
        if len(squares):
            least, most = min(least, float(squares.min())), max(most, float(squares.max()))
    return float(np.sqrt(least)), float(np.sqrt(most))
