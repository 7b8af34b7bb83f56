"""Device kernels without a card: a rehearsal for each order in which threads may take turns."""

from collections.abc import Iterator
from typing import Any

import pytest

from gpuvec.testing import rehearsal


@pytest.fixture(
    params=[1, 2, pytest.param(3, marks=pytest.mark.slow)], ids=["order_1", "order_2", "order_3"]
)
def xp(request: pytest.FixtureRequest, rehearsed: Any) -> Iterator[Any]:
    """The rehearsed CuPy, whose kernels run in one of three orders."""
    import cupy

    with rehearsal.rehearsal(order=request.param):
        yield cupy
