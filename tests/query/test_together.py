"""Segments on a card, rehearsed: one scan goes through all of them, and answers as the oracle."""

import numpy as np
import pytest

import gpuvec as gv
from gpuvec.device.budget import Budget
from gpuvec.query import together
from tests.query.tables import answers, expected_search, make_queries, make_table


def table_on_card(seed, **options):
    return make_table(seed, device="gpu", **options)


def launches_of(card, work):
    """Return our kernels' launches, all operations of CuPy, and what the work returns."""
    card.launches.clear()
    before = card.operations
    found = work()
    return list(card.launches), card.operations - before, found


def asked(table, queries, k):
    return lambda: answers(table.frame.search(queries, k=k))


@pytest.mark.parametrize(
    ("metric", "dtype", "text_keys"),
    [("sqeuclidean", "float32", True), ("l2", "uint8", False), ("ip", "float16", False),
     ("cosine", "float32", False), ("l2", "bfloat16", True)],
)  # fmt: skip
def test_answers_are_those_of_the_oracle_with_ties_by_primary_key(
    rehearsed, metric, dtype, text_keys
):
    table = table_on_card(3, segments=9, metric=metric, dtype=dtype, text_keys=text_keys)
    queries = make_queries(4, 6, metric, dtype)
    for k in (1, 10, 150, 400):
        found = answers(table.frame.search(queries, k=k))
        assert found == expected_search(table, queries, k=k)
    assert any(name.startswith("scan_") for name in rehearsed.launches)


@pytest.mark.parametrize("masked", [False, True])
def test_more_segments_take_no_more_launches(rehearsed, masked):
    counts = []
    for segments in (4, 64):
        table = table_on_card(5, rows=3000, segments=segments, hidden=masked, nulls=masked)
        work = asked(table, make_queries(6, 5), 10)
        work()
        counts.append(launches_of(rehearsed, work))
        assert counts[-1][2] == expected_search(table, make_queries(6, 5), k=10)
    few, many = counts
    assert len(many[0]) <= len(few[0]) + 2
    assert many[1] <= few[1] + 2


def scans_in(card):
    return sum(name.startswith("scan_") and name != "scan_tighten" for name in card.launches)


def test_filters_of_any_share_hide_rows_of_each_segment(rehearsed):
    table = table_on_card(7, rows=900, segments=12)
    queries = make_queries(8, 5)
    for limit in (0.02, 0.3, 0.9):
        keep = [price is not None and price < np.float32(limit) for price in table.price]
        found = answers(table.frame.filter(f"price < {limit}").search(queries, k=9))
        assert found == expected_search(table, queries, k=9, keep=keep)
    assert scans_in(rehearsed)


def test_a_radius_cuts_what_is_found_together(rehearsed):
    table = table_on_card(9, segments=6)
    queries = make_queries(10, 5)
    for high in (0.5, 3.0, 50.0):
        found = answers(table.frame.search(queries, k=9, radius=high))
        assert found == expected_search(table, queries, k=9, high=high)


def test_rows_that_are_all_alike_come_in_order_of_their_keys(rehearsed):
    alike = np.ones((1500, 8), np.float32)
    table = table_on_card(11, rows=1500, segments=8, values=alike)
    queries = alike[:3] + np.float32(1)
    assert answers(table.frame.search(queries, k=4)) == expected_search(table, queries, k=4)
    alone = [name for name in rehearsed.launches if name.startswith("pairwise_")]
    assert alone, "they are asked one by one"


def test_a_card_with_little_room_answers_the_same(rehearsed, monkeypatch):
    table = table_on_card(13, rows=600, segments=5)
    queries = make_queries(14, 5)
    monkeypatch.setattr(Budget, "resident_limit", property(lambda _: 600 * 8 * 4 + 400))
    assert answers(table.frame.search(queries, k=7)) == expected_search(table, queries, k=7)


def test_more_than_the_card_holds_is_scanned_in_several_groups(rehearsed, monkeypatch):
    table = table_on_card(15, rows=4000, segments=8)
    queries = make_queries(16, 5)
    monkeypatch.setattr(Budget, "resident_limit", property(lambda _: 4000 * 8 * 4 * 2))
    assert answers(table.frame.search(queries, k=7)) == expected_search(table, queries, k=7)
    assert scans_in(rehearsed) > 1


def test_large_segments_are_scanned_together_once_codes_pay(rehearsed, monkeypatch):
    monkeypatch.setattr(together, "SMALL_ROWS", 0)
    table = table_on_card(17, rows=20_000, segments=3, nulls=False, hidden=False)
    queries = np.random.default_rng(18).normal(size=(70, 8)).astype(np.float32)
    work = asked(table, queries, 3)
    work()
    launches, _, found = launches_of(rehearsed, work)
    assert found == expected_search(table, queries, k=3)
    assert launches.count("encode_float32") <= 2, "once for all segments, not once for each"


def test_rows_that_are_still_written_are_found_with_the_others(rehearsed, tmp_path):
    rng = np.random.default_rng(19)
    values = rng.normal(size=(900, 8)).astype(np.float32)
    schema = gv.Schema({"id": gv.Int64(), "v": gv.Vector(8, metric="l2")}, primary_key="id")
    with gv.connect(tmp_path / "db", device="gpu") as db:
        items = db.create_collection("items", schema)
        items.insert({"id": np.arange(500), "v": values[:500]})
        items.flush()
        for start in range(500, 900, 200):
            at = np.arange(start, start + 200)
            items.insert({"id": at, "v": values[at]})
            found = items.search(values[:6], k=3, exact=True).to_arrow()["id"].to_pylist()
            near = np.linalg.norm(values[None, : at[-1] + 1] - values[:6, None], axis=2)
            assert found == np.argsort(near, axis=1)[:, :3].ravel().tolist()
    assert scans_in(rehearsed) == 2, "one for each search"
