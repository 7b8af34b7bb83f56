"""Every device body under its contract, run on a CPU: the same sources, wrappers and oracles."""

import pytest

from gpuvec.index.flat import FlatIndex
from gpuvec.testing.indexes import ExactIndexTests
from gpuvec.testing.kernels import (
    CASES,
    BitSetTests,
    BitsTopKTests,
    GroupsTopKTests,
    MergeKTests,
    PairwiseTests,
    RangePairsTests,
    SelectKTests,
)


class TestPairwise(PairwiseTests):
    pass


class TestSelectK(SelectKTests):
    pass


class TestMergeK(MergeKTests):
    pass


class TestBitsTopK(BitsTopKTests):
    pass


class TestGroupsTopK(GroupsTopKTests):
    pass


class TestRangePairs(RangePairsTests):
    pass


class TestBitSet(BitSetTests):
    pass


class TestFlatIndex(ExactIndexTests):
    @pytest.fixture
    def xp(self, rehearsed):
        import cupy

        return cupy

    @pytest.mark.slow
    @pytest.mark.parametrize("count", [300, 5000])
    @pytest.mark.parametrize("asked", [1, 200])
    def test_a_k_of_any_size_takes_no_more_room_than_the_rows(self, xp, build, count, asked):
        super().test_a_k_of_any_size_takes_no_more_room_than_the_rows(xp, build, count, asked)

    @pytest.mark.slow
    @pytest.mark.parametrize(("metric", "dtype"), CASES)
    def test_batches_are_the_oracle(self, xp, build, metric, dtype):
        super().test_batches_are_the_oracle(xp, build, metric, dtype)

    @pytest.fixture
    def build(self):
        return lambda vectors, metric, valid=None: FlatIndex(vectors, metric, valid=valid)
