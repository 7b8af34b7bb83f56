"""Every kernel and index under its contract: on the host, and on a device where there is one."""

import numpy as np
import pytest

from gpuvec.index.flat import FlatIndex
from gpuvec.testing.device_scans import DeviceScanTests
from gpuvec.testing.indexes import ExactIndexTests
from gpuvec.testing.kernels import (
    BitSetTests,
    BitsTopKTests,
    GroupsTopKTests,
    MergeKTests,
    PairwiseTests,
    RangePairsTests,
    SelectKTests,
)


class OnHost:
    @pytest.fixture
    def xp(self):
        return np


@pytest.mark.gpu
class OnDevice:
    @pytest.fixture
    def xp(self):
        import cupy

        return cupy


class FlatBuilt:
    @pytest.fixture
    def build(self):
        def make(vectors, metric, valid=None):
            return FlatIndex(vectors, metric, valid=valid)

        return make


class TestPairwiseOnHost(OnHost, PairwiseTests):
    pass


class TestPairwiseOnDevice(OnDevice, PairwiseTests):
    pass


class TestSelectKOnHost(OnHost, SelectKTests):
    pass


class TestSelectKOnDevice(OnDevice, SelectKTests):
    pass


class TestMergeKOnHost(OnHost, MergeKTests):
    pass


class TestMergeKOnDevice(OnDevice, MergeKTests):
    pass


class TestBitsTopKOnHost(OnHost, BitsTopKTests):
    pass


class TestBitsTopKOnDevice(OnDevice, BitsTopKTests):
    pass


class TestGroupsTopKOnHost(OnHost, GroupsTopKTests):
    pass


class TestGroupsTopKOnDevice(OnDevice, GroupsTopKTests):
    pass


class TestRangePairsOnHost(OnHost, RangePairsTests):
    pass


class TestRangePairsOnDevice(OnDevice, RangePairsTests):
    pass


class TestBitSetOnHost(OnHost, BitSetTests):
    pass


class TestBitSetOnDevice(OnDevice, BitSetTests):
    pass


class TestFlatIndexOnHost(OnHost, FlatBuilt, ExactIndexTests):
    pass


class TestFlatIndexOnDevice(OnDevice, FlatBuilt, ExactIndexTests):
    pass


class TestDeviceScanOnDevice(OnDevice, DeviceScanTests):
    pass
