import numpy as np
import pyarrow as pa
import pytest

from gpuvec.device.frames import ArrowFrame, scalar_frame


class FrameTests:
    @pytest.fixture
    def frame(self, device):
        table = pa.table(
            {"a": pa.array([3, 1, 2]), "b": ["x", None, "z"], "c": [True, True, False]}
        )
        return scalar_frame(table, device=device)

    def test_columns_are_projected_in_the_order_asked(self, frame):
        assert frame.project(["c", "a"]).names == ("c", "a")

    def test_rows_are_filtered_by_a_mask(self, frame):
        kept = frame.filter(np.array([True, False, True]))
        assert kept.num_rows == 2
        assert kept.to_arrow()["b"].to_pylist() == ["x", "z"]

    def test_rows_are_taken_in_the_order_asked(self, frame):
        assert frame.take(np.array([2, 0, 2])).to_arrow()["a"].to_pylist() == [2, 3, 2]

    def test_slices_keep_their_order(self, frame):
        assert frame.slice(1, 3).to_arrow()["a"].to_pylist() == [1, 2]

    def test_numbers_come_as_arrays(self, frame):
        assert frame.values("a").tolist() == [3, 1, 2]

    def test_nulls_have_no_array(self, frame):
        with pytest.raises(AssertionError, match="nulls"):
            frame.values("b")


class TestArrowFrame(FrameTests):
    @pytest.fixture
    def device(self):
        return "cpu"

    def test_a_frame_on_its_side_stays_a_frame(self, frame):
        assert isinstance(scalar_frame(frame), ArrowFrame)


@pytest.mark.gpu
class TestCudfFrame(FrameTests):
    @pytest.fixture
    def device(self):
        pytest.importorskip("cudf")
        return "gpu"
