"""`Result`: the rows of an answer, in host memory."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gpuvec.api import interop
from gpuvec.api.display import result_html, result_text
from gpuvec.api.output import arrow_stream, write_parquet
from gpuvec.errors import result_is_columns
from gpuvec.query.build import check_names, whole_number
from gpuvec.query.measurements import Measurements
from gpuvec.query.plan import Columns
from gpuvec.rows import Rows

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa


class Result:
    """Rows that were computed. Arrow readers take it as it is; `to_*` converts it for others."""

    def __init__(self, rows: Rows, schema: Columns, metrics: Measurements) -> None:
        self.rows = rows
        self.schema = schema
        self.metrics = metrics

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return self.rows.order

    def head(self, n: int = 10) -> "Result":
        """Return the first `n` rows."""
        stop = min(whole_number("n", n, least=0), len(self))
        return Result(self.rows.slice(0, stop), self.schema, self.metrics)

    def __iter__(self) -> Iterator[Any]:
        raise result_is_columns()

    def __getitem__(self, name: str) -> Any:
        """Return a column as a NumPy array; vectors are 2-D."""
        if not isinstance(name, str):
            raise result_is_columns()
        check_names([name], self.schema)
        return interop.to_numpy(self.rows.select([name]))[name]

    def to_arrow(self) -> "pa.Table":
        """Return an Arrow table; vectors are fixed-size lists, float16 and bfloat16 as float32."""
        return interop.to_arrow(self.rows)

    def to_pandas(self) -> "pd.DataFrame":
        """Return a pandas frame; a vector column holds one array per row."""
        found: pd.DataFrame = interop.to_pandas(self.rows)
        return found

    def to_polars(self) -> "pl.DataFrame":
        """Return a polars frame; vectors are of type `Array`."""
        found: pl.DataFrame = interop.to_polars(self.rows)
        return found

    def to_numpy(self) -> dict[str, Any]:
        """Return one array per column; vectors are 2-D in the dtype of their field."""
        return interop.to_numpy(self.rows)

    def to_torch(self) -> dict[str, Any]:
        """Return one tensor per column.

        Raises:
            UnsupportedError: a column has no tensor, such as texts: select others.
        """
        return interop.to_torch(self.rows)

    def to_dask(self) -> Any:
        """Return a Dask DataFrame of the pandas form."""
        return interop.to_dask(self.rows)

    def to_cudf(self) -> Any:
        """Return a cuDF DataFrame; vectors are lists.

        Raises:
            UnsupportedError: `GV-930`, cuDF is not installed; `GV-910`, a vector column is larger
                than cuDF can hold.
        """
        return interop.to_cudf(self.rows)

    def to_parquet(self, path: str | os.PathLike[str], *, partition_by: Any = None) -> None:
        """Write the rows; see `Frame.to_parquet`."""
        names = (partition_by,) if isinstance(partition_by, str) else tuple(partition_by or ())
        check_names(names, self.schema)
        write_parquet(iter([self.rows]), self.schema, os.fspath(path), names)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """Hand the rows to any reader of Arrow streams."""
        return arrow_stream(iter([self.rows]), self.schema).__arrow_c_stream__(requested_schema)

    def __gpuvec_rows__(self) -> Rows:
        """Return the rows as gpuvec holds them: what `insert` takes without copies."""
        return self.rows

    def __repr__(self) -> str:
        return result_text(self.rows, self.schema)

    def _repr_html_(self) -> str:
        return result_html(self.rows, self.schema)
