"""What a manifest keeps of a segment's files, as frozen records and as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import numpy as np

from gpuvec.errors import newer_file
from gpuvec.schema import VECTOR_DTYPES
from gpuvec.storage.blocks import BlockSums
from gpuvec.types import SegmentId

FORMAT = 1  # of a segment's files; a record without the number has this one
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayRecord:
    """Where an array lies in its file: raw bytes in C order, little endian."""

    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype, also where NumPy does not know the name."""
        return VECTOR_DTYPES[self.dtype] if self.dtype in VECTOR_DTYPES else np.dtype(self.dtype)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal record."""
        return {"offset": self.offset, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make the record that `to_json` wrote."""
        return cls(offset=data["offset"], dtype=data["dtype"], shape=tuple(data["shape"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """An immutable file, and how to know that it is whole.

    Attributes:
        arrays: of vector files: "values", or "offsets", "indices" and "values".
        has_nulls: of vector files: whether the scalars hold a column that says which are valid.
        blocks: checksums of its parts; short files and those of early databases have none.
    """

    key: str
    length: int
    crc32c: int
    arrays: Mapping[str, ArrayRecord] = field(default_factory=dict)
    has_nulls: bool = False
    blocks: BlockSums | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal record."""
        found: dict[str, Any] = {"key": self.key, "length": self.length, "crc32c": self.crc32c}
        if self.arrays:
            found["arrays"] = {name: array.to_json() for name, array in self.arrays.items()}
        if self.has_nulls:
            found["has_nulls"] = True
        if self.blocks is not None:
            found["blocks"] = self.blocks.to_json()
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make the record that `to_json` wrote."""
        arrays = {n: ArrayRecord.from_json(a) for n, a in data.get("arrays", {}).items()}
        blocks = data.get("blocks")
        return cls(
            key=data["key"],
            length=data["length"],
            crc32c=data["crc32c"],
            arrays=arrays,
            has_nulls=data.get("has_nulls", False),
            blocks=None if blocks is None else BlockSums.from_json(blocks),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnStatistics:
    """Bounds of one scalar column.

    `low` and `high` are Python values, None when every row is null. Strings may be cut: `low` down,
    `high` up. Every value that is not null lies between them; columns that hold a NaN have none.
    """

    low: Any
    high: Any
    null_count: int
    row_count: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal record."""
        return {
            "low": _value_to_json(self.low),
            "high": _value_to_json(self.high),
            "null_count": self.null_count,
            "row_count": self.row_count,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make the record that `to_json` wrote."""
        return cls(
            low=_value_from_json(data["low"]),
            high=_value_from_json(data["high"]),
            null_count=data["null_count"],
            row_count=data["row_count"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentFiles:
    """All files of one segment.

    Attributes:
        scalar: the Parquet file of the scalars.
        vectors: the file of each vector field.
        statistics: of the scalar columns that have bounds, `_gv_ts` among them.
    """

    segment_id: SegmentId
    primary_key: str
    num_rows: int
    scalar: FileRecord
    vectors: Mapping[str, FileRecord]
    statistics: Mapping[str, ColumnStatistics]

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """All of them."""
        return (self.scalar, *self.vectors.values())

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of all files."""
        return tuple(file.key for file in self.files)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.length for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal record."""
        return {
            "segment_id": self.segment_id,
            "primary_key": self.primary_key,
            "num_rows": self.num_rows,
            "scalar": self.scalar.to_json(),
            "vectors": {name: file.to_json() for name, file in self.vectors.items()},
            "statistics": {name: item.to_json() for name, item in self.statistics.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make the record that `to_json` wrote; `UnsupportedError` GV-522 for a newer format."""
        if data.get("format", FORMAT) > FORMAT:
            where = f"segment {data['segment_id']}"
            raise newer_file(where, wanted=FORMAT, got=data["format"])
        statistics = {n: ColumnStatistics.from_json(s) for n, s in data["statistics"].items()}
        return cls(
            segment_id=SegmentId(data["segment_id"]),
            primary_key=data["primary_key"],
            num_rows=data["num_rows"],
            scalar=FileRecord.from_json(data["scalar"]),
            vectors={n: FileRecord.from_json(f) for n, f in data["vectors"].items()},
            statistics=statistics,
        )


def _value_to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return {"us": (value - _EPOCH) // timedelta(microseconds=1)}
    if isinstance(value, float) and not np.isfinite(value):
        return {"float": repr(value)}  # JSON has no infinity
    return value


def _value_from_json(value: Any) -> Any:
    match value:
        case {"us": us}:
            return _EPOCH + timedelta(microseconds=us)
        case {"float": text}:
            return float(text)
    return value
