"""Scalar frames: the same rules for Arrow and cuDF; what CuPy-only machines are told."""

import pytest

from gpuvec.device import columns
from gpuvec.device.frames import ArrowFrame, scalar_frame
from gpuvec.errors import UnsupportedError
from gpuvec.kernels.predicate import PlainColumns
from gpuvec.testing.frames import TABLE, FrameTests


class TestArrowFrame(FrameTests):
    @pytest.fixture
    def device(self):
        return "cpu"

    def test_a_table_is_not_copied(self):
        frame = scalar_frame(TABLE)
        assert isinstance(frame, ArrowFrame)
        assert frame.to_arrow() is TABLE


@pytest.mark.gpu
class TestCudfFrame(FrameTests):
    @pytest.fixture
    def device(self):
        pytest.importorskip("cudf")
        return "gpu"

    def test_it_is_a_cudf_frame(self):
        import cudf

        assert isinstance(scalar_frame(TABLE, device="gpu").frame, cudf.DataFrame)


def test_without_cudf_it_is_said_what_to_install():
    with columns.using(PlainColumns()), pytest.raises(UnsupportedError, match="cudf") as caught:
        scalar_frame(TABLE, device="gpu")
    assert caught.value.code == "GV-901"
