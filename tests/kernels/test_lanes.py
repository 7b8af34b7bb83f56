import numpy as np
import pytest

from gpuvec.kernels.lanes import WIDE_LANES, kernel_view
from gpuvec.kernels.pairwise import METRIC_CODES, _lane_sum
from gpuvec.types import Metric


def test_views_share_memory_and_cannot_be_written():
    x = np.arange(6, dtype=np.float16).reshape(2, 3)
    view = kernel_view(x)
    assert np.shares_memory(view, x)
    assert not view.flags.writeable
    assert x.flags.writeable
    assert view.dtype == np.uint16


def test_rows_that_are_not_contiguous_are_copied():
    assert kernel_view(np.zeros((4, 8), np.float32)[:, ::2]).flags.c_contiguous


def test_the_reference_adds_in_as_many_lanes_as_the_compiled_sum():
    # 2**60 swallows the small numbers of its own lane only.
    terms = np.ones((1, 2 * WIDE_LANES))
    terms[0, 0], terms[0, WIDE_LANES] = 2.0**60, -(2.0**60)
    assert _lane_sum(terms)[0] == 2 * WIDE_LANES - 2


@pytest.mark.parametrize("metric", list(Metric))
def test_metric_codes_are_those_of_the_compiled_bodies(metric):
    from gpuvec.kernels import host_pairwise

    assert getattr(host_pairwise, metric.name) == METRIC_CODES[metric]
