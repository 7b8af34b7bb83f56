"""On a card: cuDF gives programs the meaning that Arrow gives them."""

import pytest

from gpuvec.device.columns import CudfColumns
from gpuvec.testing.column_engines import CONDITIONS, LISTS, ColumnEngineTests


@pytest.mark.gpu
class TestCudfColumns(ColumnEngineTests):
    conditions = (*CONDITIONS, *LISTS)

    @pytest.fixture
    def engine(self):
        pytest.importorskip("cudf")
        return CudfColumns()
