"""Segments that no row of theirs can pass are known by their bounds."""

from datetime import UTC, datetime

import pytest

from gpuvec.expr.bind import as_filter, bind_filter
from gpuvec.expr.prune import can_match
from gpuvec.schema import JSON, Bool, Float32, Int64, String, Timestamp
from gpuvec.segment.view import FieldStatistics

FIELDS = {
    "id": Int64(),
    "n": Int64(nullable=True),
    "none": Int64(nullable=True),
    "price": Float32(nullable=True),
    "brand": String(),
    "ok": Bool(),
    "ts": Timestamp(),
    "meta": JSON(nullable=True),
    "new": Int64(nullable=True),
}
STATISTICS = {
    "id": FieldStatistics(low=100, high=199, null_count=0, row_count=100),
    "n": FieldStatistics(low=5, high=5, null_count=1, row_count=100),
    "none": FieldStatistics(low=None, high=None, null_count=100, row_count=100),
    "price": FieldStatistics(low=1.0, high=2.5, null_count=0, row_count=100),
    "brand": FieldStatistics(low="acme", high="bolt", null_count=0, row_count=100),
    "ok": FieldStatistics(low=True, high=True, null_count=0, row_count=100),
    "ts": FieldStatistics(
        low=datetime(2026, 1, 1, tzinfo=UTC), high=datetime(2026, 2, 1, tzinfo=UTC),
        null_count=0, row_count=100,
    ),
    "meta": FieldStatistics(low=None, high=None, null_count=100, row_count=100),
}  # fmt: skip


def may(text):
    return can_match(bind_filter(as_filter(text), FIELDS), STATISTICS.get)


@pytest.mark.parametrize(
    "text",
    [
        "id < 100", "id > 199", "id == 3", "200 <= id", "id == 1.5", "id > 1e300",
        "id in [1, 2, 200]",
        "id not in [150] and id == 3", "not (id >= 100)", "not (id != 3)", "id is null",
        "n == 4", "n != 5", "id is null and n is not null",
        "none == 1", "none != 1", "none is not null", "not (none < 1)", "none in [1]",
        "price > 2.6", "not (price > 2.6) and price > 3", "price < 1",
        "brand == 'acm'", "brand > 'bolts'", "brand like 'c%'", "brand like 'ab_'",
        "starts_with(brand, 'z')", "brand in ['a', 'zeta']", "not ok", "ok == false",
        "ts < '2025-12-31'", "ts > '2026-02-01T00:00:01Z'",
        "id + 1 < 101", "id * 2 > 398", "-id > -100", "id - n > 194", "1 > 2", "meta['a'] == 1",
        "id == 150 and n == 3 or id == 3 and n == 5",
    ],
)  # fmt: skip
def test_segments_outside_a_condition_are_left_out(text):
    assert not may(text)


@pytest.mark.parametrize(
    "text",
    [
        "id < 101", "id >= 199", "id == 150", "id != 150", "id in [1, 150]", "not (id == 150)",
        "n == 5", "n is null", "not (n is null)", "none is null", "none == 1 or id == 150",
        "price != 1", "not (price <= 2.5)", "not (price > 0)", "brand like 'b%'", "brand like '%z'",
        "not (brand like 'c%')", "ok", "ts == '2026-01-15'", "new == 3", "id + new == 3",
        "id % 7 == 3", "id / 2 < 3", "meta is null", "1 < 2", "fill_null(none, 3) == 3",
        "id * 9223372036854775807 == 3 or id == 100", "length(brand) > 100",
        "not (n < 5)", "not (n > 5)", "(n == 4) is null", "(none < 1) is null",
        "(id * 9223372036854775807) is null", "(id + 9223372036854775807) is null",
    ],
)  # fmt: skip
def test_segments_that_may_have_a_row_are_kept(text):
    assert may(text)


def test_strange_statistics_prune_nothing():
    bound = bind_filter(as_filter("id < 3 or brand == 'zz' or ts < '1999-01-01'"), FIELDS)
    strange = FieldStatistics(low=b"a", high=object(), null_count=0, row_count=9)
    nan = FieldStatistics(low=float("nan"), high=float("nan"), null_count=0, row_count=9)
    assert can_match(bound, lambda name: strange)
    assert can_match(bound, lambda name: nan)
    assert can_match(bound, lambda name: None)
