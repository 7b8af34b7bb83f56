"""What rows become when they leave a frame for another library."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from gpuvec.api.result import Result

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa


class Outputs(ABC):
    """Something that can be run, and its rows in the forms of other libraries."""

    @abstractmethod
    def collect(self, *, engine: str = "auto") -> Result:
        """See `Frame.collect`."""

    def to_arrow(self) -> "pa.Table":
        """Run, and return an Arrow table; vectors are fixed-size lists."""
        return self.collect().to_arrow()

    def to_pandas(self) -> "pd.DataFrame":
        """Run, and return a pandas frame."""
        return self.collect().to_pandas()

    def to_polars(self) -> "pl.DataFrame":
        """Run, and return a polars frame."""
        return self.collect().to_polars()

    def to_numpy(self) -> dict[str, Any]:
        """Run, and return one array per column."""
        return self.collect().to_numpy()

    def to_torch(self) -> dict[str, Any]:
        """Run, and return one tensor per column; texts have none."""
        return self.collect().to_torch()
