"""What indexes on a device see of vectors: float16, around zero, of a size that float16 holds well.

Distances and inner products rank rows alike when the same vector is taken from all of them, and
when all are scaled; rows of length 1 rank by distance as they do by cosine. So one form serves all
metrics and dtypes, at two bytes a value. What is found is measured again from the rows themselves.
"""

from dataclasses import dataclass

from gpuvec.device.arrays import array_namespace, as_float32
from gpuvec.device.rows import HeldRows
from gpuvec.types import Array, Metric

TILE = 1 << 16  # rows that are looked at together
_SIZE = 16.0  # of the greatest value: squares and sums of it are far from float16's ends
_MOST = 6e4  # of a query's value; float16 ends at 65504


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceSpace:
    """How an index on a device sees dense vectors.

    Attributes:
        product: whether rows are compared by inner product; otherwise by squared distance.
        unit: whether each row and query is brought to length 1 first.
        center: (dim,) float32 on the device, taken from every row.
        factor: what is left is multiplied by.
    """

    product: bool
    unit: bool
    center: Array
    factor: float

    @property
    def metric_name(self) -> str:
        """What cuVS calls the comparison."""
        return "inner_product" if self.product else "sqeuclidean"

    def rows(self, values: Array) -> Array:
        """Return rows (n, dim) of any dtype as (n, dim) float16, C-contiguous."""
        xp = array_namespace(values)
        found = unit_rows(values) if self.unit else as_float32(values)
        return xp.ascontiguousarray(((found - self.center) * self.factor).astype(xp.float16))

    def queries(self, queries: Array) -> Array:
        """Return queries (m, dim) float32 as (m, dim) float16, C-contiguous."""
        xp = array_namespace(queries)
        if self.product:
            found = unit_rows(queries) * _SIZE  # any length ranks rows alike
        else:
            found = (unit_rows(queries) if self.unit else queries) - self.center
            found = xp.clip(found * self.factor, -_MOST, _MOST)
        return xp.ascontiguousarray(found.astype(xp.float16))


def unit_rows(values: Array) -> Array:
    """Bring rows to length 1, (n, dim) float32; rows of zeros stay."""
    xp = array_namespace(values)
    found = as_float32(values)
    largest = xp.max(xp.abs(found), axis=1, keepdims=True)  # whose squares would overflow
    found = found / xp.where(largest > 0, largest, 1)
    squares = xp.sum(found * found, axis=1, keepdims=True)
    return (found / xp.sqrt(xp.where(squares > 0, squares, 1))).astype(xp.float32)


def device_space(held: HeldRows, like: Array, metric: Metric) -> DeviceSpace:
    """Choose how an index on a device shall see rows.

    Args:
        held: of a segment; null ones are zeros.
        like: an array of the device, as wide as the rows.
        metric: a dense one.

    Cost: two reads of all rows.
    """
    xp, unit = array_namespace(like), metric is Metric.COSINE
    width, count = like.shape[1], 0
    total = xp.zeros(width, xp.float64)
    for tile in held.tiles(TILE):
        values = unit_rows(tile.values) if unit else as_float32(tile.values)
        total += xp.sum(values, axis=0, dtype=xp.float64)
        count += len(values)
    center = (total / max(1, count)).astype(xp.float32)
    largest = xp.zeros((), xp.float32)
    for tile in held.tiles(TILE):
        values = unit_rows(tile.values) if unit else as_float32(tile.values)
        largest = xp.maximum(largest, xp.max(xp.abs(values - center)))
    most = float(largest)
    return DeviceSpace(
        product=metric is Metric.IP,
        unit=unit,
        center=center,
        factor=_SIZE / most if most > 0 else 1.0,
    )
