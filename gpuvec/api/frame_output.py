"""What rows become when they leave a frame for another library."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from gpuvec.api import interop
from gpuvec.api.result import Result
from gpuvec.query.plan import Plan
from gpuvec.query.session import Session

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa


class Outputs(ABC):
    """Something that can be run, and its rows in the forms of other libraries."""

    _session: Session

    @property
    @abstractmethod
    def plan(self) -> Plan:
        """See `Frame.plan`."""

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
        """Run, and return one tensor per column; texts have none.

        On a device, rows of a collection that filters chose do not leave it: their tensors are
        there.
        """
        from gpuvec.query.device_arrays import arrays_on_device

        if self._session.device_store is not None and interop.torch_has_device():
            arrays = arrays_on_device(self.plan, self._session)
            if arrays is not None:
                return interop.device_tensors(arrays, self.plan.columns.fields)
        return self.collect().to_torch()
