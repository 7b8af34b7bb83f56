"""The contract of scalar columns on host and device, and cases of every type.

A test class inherits it and gives the fixture `device`, "cpu" or "gpu". The oracle is Arrow.
"""
# ruff: noqa: D102 - a test's name is its rule

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gpuvec.device.arrays import to_host
from gpuvec.device.frames import ScalarFrame, scalar_frame

TABLE = pa.table(
    {
        "a": pa.array([3, 1, 2, 7, -5], pa.int64()),
        "tiny": pa.array([1, None, -128, 127, 0], pa.int8()),
        "price": pa.array([0.5, float("nan"), None, float("inf"), -0.0]),
        "half": pa.array([0.5, 1.5, None, 2.5, 3.5], pa.float32()),
        "brand": pa.array(["x", None, "zürich 🚲", "", "x"]),
        "sold": pa.array([True, None, False, True, True]),
        "at": pa.array([datetime(2026, 11, 23, 17, tzinfo=UTC), None] * 2 + [None],
                       pa.timestamp("us", tz="UTC")),
        "tags": pa.array([["a", None], [], None, ["b", "c", "d"], [""]]),
        "sizes": pa.array([[1, 2], [], None, [3], [-4]], pa.list_(pa.int32())),
        "exact": pa.array([Decimal("1.25"), None, Decimal("-3.50"), Decimal("0"), None],
                          pa.decimal128(12, 2)),
        "extra": pa.array(['{"n": 1}', "null", None, "[]", '"é"']),
    }
)  # fmt: skip


class FrameTests:
    """Rules for scalar columns wherever they lie."""

    @pytest.fixture
    def frame(self, device: str) -> ScalarFrame:
        return scalar_frame(TABLE, device=device)

    def check(self, found: ScalarFrame, wanted: pa.Table) -> None:
        """Compare a frame with a table: names, types, nulls, values, NaN too."""
        got = found.to_arrow()
        assert got.schema.equals(wanted.schema)
        assert found.num_rows == wanted.num_rows
        for name in wanted.column_names:
            assert repr(got[name].to_pylist()) == repr(wanted[name].to_pylist()), name

    def test_columns_of_every_type_come_back_as_they_were(self, frame: ScalarFrame) -> None:
        self.check(frame, TABLE)

    def test_columns_are_projected_in_the_order_asked(self, frame: ScalarFrame) -> None:
        assert frame.project(["sold", "a"]).names == ("sold", "a")
        self.check(frame.project(["brand", "at"]), TABLE.select(["brand", "at"]))

    @pytest.mark.parametrize("keep", [[1, 0, 1, 0, 1], [0] * 5, [1] * 5], ids=str)
    def test_rows_are_filtered_by_a_mask(self, frame: ScalarFrame, keep: list[int]) -> None:
        mask = np.array(keep, bool)
        self.check(frame.filter(mask), TABLE.filter(pa.array(mask)))

    @pytest.mark.parametrize("rows", [[2, 0, 2, 4], [], [4, 3, 2, 1, 0]], ids=str)
    def test_rows_are_taken_in_the_order_asked(self, frame: ScalarFrame, rows: list[int]) -> None:
        places = np.array(rows, np.int64)
        self.check(frame.take(places), TABLE.take(pa.array(places)))

    def test_slices_keep_their_order(self, frame: ScalarFrame) -> None:
        self.check(frame.slice(1, 4), TABLE.slice(1, 3))

    def test_frames_are_joined_end_to_end(self, frame: ScalarFrame) -> None:
        whole: Any = frame
        self.check(whole.followed_by([frame.slice(3, 5), frame.slice(0, 1)]),
                   pa.concat_tables([TABLE, TABLE.slice(3), TABLE.slice(0, 1)]))  # fmt: skip
        self.check(whole.followed_by([]), TABLE)

    def test_a_filtered_slice_is_filtered_again(self, frame: ScalarFrame) -> None:
        few = frame.slice(1, 5).filter(np.array([True, False, True, True]))
        self.check(few.take(np.array([2, 0])), TABLE.take(pa.array([4, 1])))

    def test_no_rows_are_a_frame_too(self, device: str) -> None:
        self.check(scalar_frame(TABLE.slice(0, 0), device=device), TABLE.slice(0, 0))

    def test_numbers_come_as_arrays(self, frame: ScalarFrame) -> None:
        assert to_host(frame.values("a")).tolist() == [3, 1, 2, 7, -5]

    def test_nulls_are_counted(self, frame: ScalarFrame) -> None:
        wanted = {name: TABLE[name].null_count for name in TABLE.column_names}
        assert {name: frame.null_count(name) for name in frame.names} == wanted

    def test_nulls_have_no_array(self, frame: ScalarFrame) -> None:
        with pytest.raises(AssertionError, match="nulls"):
            frame.values("tiny")
