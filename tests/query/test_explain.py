"""The plan as text."""

import re

import numpy as np
import pytest

from gpuvec.api.frame import frame
from gpuvec.expr.tree import col, count
from gpuvec.index.spec import HNSW
from tests.query.indexed import DIM, flat_curve, indexed_table
from tests.query.tables import make_queries, make_table


def test_a_search_shows_filter_segments_and_output():
    table = make_table(1)
    plan = table.frame.filter("price < 0.2").search(make_queries(2, 50), k=3, recall=0.95)
    text = str(plan.select("id", "distance").explain())
    assert "Search embedding k=3 sqeuclidean recall≥0.95" in text
    assert "queries 50" in text
    assert "prefilter price < 0.2" in text
    assert "selectivity 0." in text
    assert "3 segments   exact scan" in text
    assert "output id, distance" in text
    assert "embedding not read" in text
    assert "reads about" in text


def test_the_output_of_a_search_is_what_later_steps_use():
    table = make_table(1)
    hits = table.frame.search(make_queries(2, 5), k=3)
    text = str(hits.group_by("query_id").agg(best=col("distance").min()).explain())
    assert "output query_id, distance" in text
    assert "price" not in text
    assert "output id, embedding" in str(hits.select("id", "embedding").explain())


def test_analyze_adds_what_was_measured():
    table = make_table(1)
    plan = table.frame.search(make_queries(2, 50), k=3).explain(analyze=True)
    assert plan.metrics.queries == 50
    assert "measured: 150 rows" in str(plan)
    assert "<pre>" in plan._repr_html_()
    assert table.frame.explain().metrics is None


def test_every_node_has_a_line():
    table = make_table(1)
    other = frame({"brand": ["acme"], "n": [1]})
    plan = table.frame.drop("embedding").with_columns(x=col("price") + 1).join(other, "brand")
    text = str(
        plan.distinct("id").sort("price", descending=True).sample(50, seed=1).limit(20)
        .group_by("brand").head(3).group_by("brand").agg(n=count()).concat(
            plan.group_by("brand").agg(n=count())
        ).describe().explain()
    )  # fmt: skip
    for words in (
        "Describe", "Concat 2 frames", "Group by brand: n", "First 3 of each brand", "Limit 20",
        "Sample 50 seed=1", "Sort price descending", "Distinct id", "Join inner brand = brand",
        "Compute x = price + 1", "Scan items", "3 segments", "embedding not read",
    ):  # fmt: skip
        assert words in text, words


def test_a_collection_that_is_read_twice_has_its_columns_said_for_each_time():
    items = make_table(1).frame
    prices = items.select("id", "price").join(items.select("id", "brand"), "id")
    text = str(prices.explain())
    read = [set(names.split(", ")) for names in re.findall("reads ([a-z]+(?:, [a-z]+)*)", text)]
    assert [names for names in read if "id" in names] == [{"id", "price"}, {"id", "brand"}]


def test_the_columns_that_are_read_are_those_that_are_used():
    table = make_table(1)
    text = str(table.frame.filter("price < 0.5").select("id").explain())
    assert "reads id, price" in text
    assert "embedding not read" in text


@pytest.mark.parametrize("queries", ["frame", "get"])
def test_query_frames_are_shown(queries):
    table = make_table(1)
    asked = table.frame.limit(5) if queries == "frame" else table.frame.get(table.keys[:3])
    text = str(table.frame.search(asked, k=2, exclude_self=True).explain())
    assert "exclude_self" in text
    assert ("Limit 5" if queries == "frame" else "Get 3 keys") in text


GOLDEN = """\
Search embedding k=10 l2 recall≥0.9           queries #  est. # ms  reads about # KiB of # KiB
├─ prefilter price < #                      selectivity # → mask inside the scan
├─ 2 segments   HNSW ef_search=64             curve of held-out rows: recall # [#] at selectivity \
# and above
├─ 1 segment   exact scan                     # rows; written since the index, or too few for one
└─ output query_id, rank, id, distance, price  embedding not read
measured: # rows, # KiB in # ms (snapshot # ms, filter # ms, search # ms, fetch # ms)
  3 segments looked at, # pruned; # rows
  # queries, # rows that pass: 2 x HNSW ef_search=64, 1 x exact scan (float32)
  # distances measured again, # queries rescanned, # short answers completed by a scan
  expected recall #"""

NUMBER = re.compile(r"(?<![\w=≥.,])\d[\d,.]*\d?(?![\w])(?! (?:segment|x ))")


def test_a_search_with_indexes_says_which_way_each_segment_goes():
    pytest.importorskip("faiss")
    curve = flat_curve([({"ef_search": 64}, 0.96), ({"ef_search": 400}, 0.999)])
    sizes = ((2500, True), (300, False), (1500, True))
    table = indexed_table(HNSW(m=16, ef_construction=80), curve, sizes=sizes)
    queries = np.random.default_rng(1).standard_normal((7, DIM)).astype(np.float32)
    search = table.frame.filter("price < 0.6").search(queries, recall=0.9)
    assert NUMBER.sub("#", str(search.explain(analyze=True))) == GOLDEN


def test_a_search_with_indexes_says_why_it_scans():
    pytest.importorskip("faiss")
    curve = flat_curve([({"ef_search": 64}, 0.96)])
    table = indexed_table(HNSW(m=16, ef_construction=80), curve, sizes=((1500, True),))
    queries = np.zeros((5, DIM), np.float32)
    for rows, options, words in (
        (table.frame, {"recall": 0.999}, "1,500 rows; no setting reaches 0.999"),
        (table.frame, {"exact": True}, "Search embedding k=10 l2 exact"),
        (table.frame, {"params": {"ef_search": 9}}, "HNSW ef_search=9"),
        (table.frame, {"k": 500}, "k=500 is larger than any measured"),
        (table.frame.filter("price < 0.005"), {"recall": 0.9}, "fewer than were measured"),
    ):
        text = str(rows.search(queries, **options).explain())
        assert words in text
        assert text.count("exact scan") <= 1


def lines_without_numbers(frame):
    text = NUMBER.sub("#", str(frame.explain()))
    return [line for line in text.splitlines() if "output" not in line]


def test_a_choice_of_columns_before_a_search_changes_none_of_its_lines():
    pytest.importorskip("faiss")
    curve = flat_curve([({"ef_search": 64}, 0.96)])
    table = indexed_table(HNSW(m=16, ef_construction=80), curve, sizes=((1500, True), (300, False)))
    queries = np.random.default_rng(1).standard_normal((7, DIM)).astype(np.float32)
    for rows in (table.frame, table.frame.filter("price < 0.6")):
        wanted = lines_without_numbers(rows.search(queries).select("id", "distance"))
        assert "recall≥0.95" in wanted[1]
        for columns in (("id",), ("id", "embedding"), ("price", "id")):
            search = rows.select(*columns).search(queries, on="embedding")
            assert lines_without_numbers(search.select("id", "distance")) == wanted


def test_filters_anywhere_below_a_search_leave_its_ways_visible():
    pytest.importorskip("faiss")
    curve = flat_curve([({"ef_search": 64}, 0.96)])
    table = indexed_table(HNSW(m=16, ef_construction=80), curve, sizes=((1500, True),))
    queries = np.zeros((5, DIM), np.float32)
    rows = table.frame.filter("price < 0.6")
    doubled = rows.with_columns(twice=col("price") * 2)
    for below in (
        doubled,
        doubled.select("id", "twice"),
        doubled.filter("twice > 0.1"),
        rows.concat(table.frame.filter("price > 0.9")),
        table.frame.concat(table.frame).filter("price < 0.6"),
        table.frame.filter("price < 0"),
    ):
        search = below.search(queries, on="embedding")
        text = str(search.explain())
        assert "k=10 l2 recall≥0.95" in text
        ways = search.collect().metrics.strategies
        assert text.count("HNSW ef_search=64") == bool(ways)
        assert set(ways) <= {"HNSW ef_search=64", "exact scan (float32)"}


def test_searches_of_moved_rows_are_said_to_be_exact():
    pytest.importorskip("faiss")
    curve = flat_curve([({"ef_search": 64}, 0.96)])
    table = indexed_table(HNSW(m=16, ef_construction=80), curve, sizes=((1500, True),))
    queries = np.zeros((5, DIM), np.float32)
    for rows in (table.frame.limit(1000), table.frame.limit(1000).filter("price < 0.6")):
        search = rows.search(queries)
        assert "l2 exact" in str(search.explain())
        assert set(search.collect().metrics.strategies) == {"exact scan (float32)"}
