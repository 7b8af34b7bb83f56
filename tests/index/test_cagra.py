"""CAGRA on the CPU: under the contract of approximate indexes, and what is its own."""

import numpy as np

from gpuvec.index.spec import CAGRA
from gpuvec.kernels.pairwise import is_binary
from gpuvec.testing.approximate_indexes import ApproximateIndexTests
from gpuvec.testing.kernels import CASES
from gpuvec.types import Metric


class TestCagraOnHostContract(ApproximateIndexTests):
    spec = CAGRA(graph_degree=32, intermediate_graph_degree=64)
    cases = (
        (Metric.COSINE, np.float32),
        (Metric.L2, np.float16),
        (Metric.IP, np.int8),
    )
    more_cases = tuple(case for case in CASES if not is_binary(case[0]))
