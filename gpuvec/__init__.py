"""gpuvec: an analytical vector engine. Vectors beside ordinary columns, searched in exact batches.

The names below are the public ones; each is imported at its first use, so that `import gpuvec`
stays quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

from gpuvec.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    CacheWarning,
    CastWarning,
    ConflictError,
    CorruptError,
    DeadlineError,
    DeviceMemoryError,
    FallbackWarning,
    FilterError,
    GpuvecError,
    JobError,
    NotFoundError,
    QueryError,
    QuotaError,
    RecallWarning,
    ResultTooLargeError,
    SchemaError,
    SnapshotExpiredError,
    StorageError,
    UnavailableError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from gpuvec import index as index
    from gpuvec.api import datasets as datasets
    from gpuvec.api.collection import Collection as Collection
    from gpuvec.api.database import Database as Database
    from gpuvec.api.frame import Frame as Frame
    from gpuvec.api.frame import frame as frame
    from gpuvec.api.index_report import IndexReport as IndexReport
    from gpuvec.api.job import Job as Job
    from gpuvec.api.result import Result as Result
    from gpuvec.api.source import WriteResult as WriteResult
    from gpuvec.api.tuning import Tuning as Tuning
    from gpuvec.connecting import connect as connect
    from gpuvec.expr.tree import Expr as Expr
    from gpuvec.expr.tree import col as col
    from gpuvec.expr.tree import count as count
    from gpuvec.expr.tree import left as left
    from gpuvec.expr.tree import lit as lit
    from gpuvec.expr.tree import right as right
    from gpuvec.schema import JSON as JSON
    from gpuvec.schema import BinaryVector as BinaryVector
    from gpuvec.schema import Bool as Bool
    from gpuvec.schema import Float32 as Float32
    from gpuvec.schema import Float64 as Float64
    from gpuvec.schema import Int8 as Int8
    from gpuvec.schema import Int16 as Int16
    from gpuvec.schema import Int32 as Int32
    from gpuvec.schema import Int64 as Int64
    from gpuvec.schema import List as List
    from gpuvec.schema import Schema as Schema
    from gpuvec.schema import SparseVector as SparseVector
    from gpuvec.schema import String as String
    from gpuvec.schema import Timestamp as Timestamp
    from gpuvec.schema import Vector as Vector
    from gpuvec.settings import config as config
    from gpuvec.types import Metric as Metric

__version__ = "0.1.0"

_HOMES = {
    "gpuvec": "index",
    "gpuvec.api": "datasets",
    "gpuvec.api.collection": "Collection",
    "gpuvec.api.database": "Database",
    "gpuvec.api.frame": "Frame frame",
    "gpuvec.api.index_report": "IndexReport",
    "gpuvec.api.job": "Job",
    "gpuvec.api.result": "Result",
    "gpuvec.api.source": "WriteResult",
    "gpuvec.api.tuning": "Tuning",
    "gpuvec.connecting": "connect",
    "gpuvec.settings": "config",
    "gpuvec.expr.tree": "Expr col count left lit right",
    "gpuvec.schema": "JSON BinaryVector Bool Float32 Float64 Int8 Int16 Int32 Int64 List Schema "
    "SparseVector String Timestamp Vector",
    "gpuvec.types": "Metric",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "JSON", "AccessDeniedError", "AlreadyExistsError", "BinaryVector", "Bool", "CacheWarning",
    "CastWarning", "Collection", "ConflictError", "CorruptError", "Database", "DeadlineError",
    "DeviceMemoryError",
    "Expr", "FallbackWarning", "FilterError", "Float32", "Float64", "Frame", "GpuvecError",
    "IndexReport", "Int8", "Int16", "Int32", "Int64", "Job", "JobError", "List", "Metric",
    "NotFoundError", "QueryError", "QuotaError", "RecallWarning", "Result", "ResultTooLargeError",
    "Schema", "SchemaError",
    "SnapshotExpiredError", "SparseVector", "StorageError", "String", "Timestamp", "Tuning",
    "UnavailableError", "UnsupportedError", "Vector", "WriteResult", "col", "config", "connect",
    "count", "datasets", "frame", "index", "left", "lit", "right",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'gpuvec' has no attribute {name!r}")
    if name in ("datasets", "index"):
        return importlib.import_module(f"{home}.{name}")
    found = getattr(importlib.import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
