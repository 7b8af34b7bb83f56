"""Lists of FAISS: under the contract of approximate indexes, and what is their own."""

import ml_dtypes
import numpy as np

from gpuvec.index.spec import IVFPQ, IVFSQ8, IVFFlat, IVFRaBitQ
from gpuvec.kernels.pairwise import is_binary
from gpuvec.testing.approximate_indexes import ApproximateIndexTests
from gpuvec.testing.kernels import CASES
from gpuvec.types import Metric

DENSE = tuple(case for case in CASES if not is_binary(case[0]))


class TestIvfFlatContract(ApproximateIndexTests):
    spec = IVFFlat()
    cases = (
        (Metric.COSINE, np.float32),
        (Metric.L2, np.float16),
        (Metric.IP, np.int8),
        (Metric.SQEUCLIDEAN, ml_dtypes.bfloat16),
    )
    more_cases = DENSE


class TestIvfSq8Contract(ApproximateIndexTests):
    spec = IVFSQ8(n_lists=20)
    cases = ((Metric.COSINE, np.float16), (Metric.L2, np.float32), (Metric.IP, np.uint8))
    more_cases = DENSE


class TestIvfPqContract(ApproximateIndexTests):
    spec = IVFPQ()
    cases = ((Metric.COSINE, np.float32), (Metric.L2, np.float16))
    more_cases = DENSE


class TestIvfPqOf8BitsContract(ApproximateIndexTests):
    spec = IVFPQ(n_lists=20, pq_dim=10, pq_bits=8)  # which fills no row evenly
    cases = ((Metric.IP, np.uint8),)
    more_cases = DENSE


class TestIvfRaBitQContract(ApproximateIndexTests):
    spec = IVFRaBitQ()
    cases = ((Metric.COSINE, np.float32), (Metric.IP, np.int8))
    more_cases = DENSE


class TestIvfRaBitQOf4BitsContract(ApproximateIndexTests):
    spec = IVFRaBitQ(n_lists=20, bits=4)
    cases = ((Metric.L2, np.float32),)
    more_cases = DENSE


class TestBitListsContract(ApproximateIndexTests):
    spec = IVFFlat()
    metric = Metric.HAMMING
    dtype = np.uint8
    cases = ((Metric.HAMMING, np.uint8), (Metric.JACCARD, np.uint8))
