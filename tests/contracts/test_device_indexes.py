"""Indexes of GPU libraries under the contract of approximate indexes, on a card.

Where a library, or its way to serve an index, is not installed, its class is skipped.
"""

import ml_dtypes
import numpy as np
import pytest

from gpuvec.index.spec import CAGRA, IVFPQ, IVFSQ8, Flat, IVFFlat
from gpuvec.testing.approximate_indexes import DeviceIndexTests
from gpuvec.types import Metric

CASES = (
    (Metric.COSINE, np.float32),
    (Metric.L2, np.float16),
    (Metric.IP, np.int8),
    (Metric.SQEUCLIDEAN, ml_dtypes.bfloat16),
)


@pytest.mark.gpu
class OnCard(DeviceIndexTests):
    cases = CASES


class TestCagraByCuvs(OnCard):
    spec = CAGRA()
    engine = "cuvs"


class TestIvfFlatByCuvs(OnCard):
    spec = IVFFlat()
    engine = "cuvs"


class TestIvfSq8ByCuvs(OnCard):
    spec = IVFSQ8()
    engine = "cuvs"


class TestIvfPqByCuvs(OnCard):
    spec = IVFPQ()
    engine = "cuvs"


class TestIvfFlatByFaiss(OnCard):
    spec = IVFFlat()
    engine = "faiss"


class TestIvfSq8ByFaiss(OnCard):
    spec = IVFSQ8()
    engine = "faiss"


class TestIvfPqByFaiss(OnCard):
    spec = IVFPQ()
    engine = "faiss"


class TestScanByCuvs(OnCard):
    spec = Flat()
    engine = "cuvs"
    test_files_make_an_equal_index = None  # it has none
    test_unknown_knobs_are_refused = None
    test_the_spec_is_decided_and_the_bytes_are_counted = None
    test_a_memory_limit_too_small_names_the_parts = None
