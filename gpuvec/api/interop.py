"""Whatever goes in and comes out: one import for the rest of the package.

In: `gpuvec.api.tables` (tables), `gpuvec.api.intake` (one column), `gpuvec.api.queries` (queries),
`gpuvec.api.inference` (types from data). Out: `gpuvec.api.export`.
"""

from gpuvec.api.export import (
    device_tensors,
    to_arrow,
    to_cudf,
    to_dask,
    to_numpy,
    to_pandas,
    to_polars,
    to_torch,
    torch_has_device,
)
from gpuvec.api.inference import infer_fields
from gpuvec.api.queries import to_queries
from gpuvec.api.tables import infer_schema, to_rows

__all__ = [
    "device_tensors",
    "infer_fields",
    "infer_schema",
    "to_arrow",
    "to_cudf",
    "to_dask",
    "to_numpy",
    "to_pandas",
    "to_polars",
    "to_queries",
    "to_rows",
    "to_torch",
    "torch_has_device",
]
