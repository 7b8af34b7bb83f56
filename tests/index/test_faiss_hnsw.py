"""HNSW by FAISS: under the contract of approximate indexes, and what is its own."""

import ml_dtypes
import numpy as np

from gpuvec.index.spec import HNSW
from gpuvec.testing.approximate_indexes import ApproximateIndexTests
from gpuvec.testing.kernels import CASES
from gpuvec.types import Metric


class TestHnswContract(ApproximateIndexTests):
    spec = HNSW(m=16, ef_construction=60)
    cases = (
        (Metric.COSINE, np.float32),
        (Metric.L2, np.float16),
        (Metric.IP, np.int8),
        (Metric.SQEUCLIDEAN, ml_dtypes.bfloat16),
        (Metric.HAMMING, np.uint8),
    )
    more_cases = tuple(case for case in CASES if case[0] is not Metric.JACCARD)
