"""Examples 40 to 43 and 56 of the API page: quality, plans, results, settings."""

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import gpuvec as gv


def test_40_recall_of_a_search_against_the_exact_answer(items, Q):
    rep = items.filter("price < 20").search(Q, recall=0.95).evaluate(sample=500)
    assert rep.recall == rep.worst == 1.0
    low, high = rep.ci95
    assert 0 <= low <= rep.recall <= high <= 1
    assert rep.queries_per_second > 0
    per_query = rep.per_query
    assert isinstance(per_query, gv.Frame)
    rows = per_query.to_pandas()
    assert sorted(rows["query_id"]) == list(range(len(Q))), "fewer queries than the sample: all"
    assert (rows["recall"] == 1.0).all()


def test_40_a_sample_is_drawn_and_repeatable(items, Q):
    def asked(seed):
        report = items.search(Q).evaluate(sample=5, seed=seed)
        return report.per_query.to_pandas()["query_id"].tolist()

    assert len(asked(0)) == 5
    assert asked(0) == asked(0)
    assert len({tuple(asked(seed)) for seed in range(5)}) > 1


def test_40_a_report_draws_itself(items, Q):
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.axes import Axes

    assert isinstance(items.search(Q[:3]).evaluate().plot(), Axes)


def test_41_the_plan_says_what_would_run_and_runs_nothing(items, df, Q, capsys):
    print(items.filter("price < 20").search(Q).explain())
    text = capsys.readouterr().out
    first, *rest = text.splitlines()
    assert first.startswith("Search ")
    assert "k=10" in first
    assert "cosine" in first
    assert f"queries {len(Q)}" in first
    prefilter = next(line for line in rest if "prefilter price < 20" in line)
    said = float(prefilter.split("selectivity")[1].split()[0])
    assert abs(said - (df["price"] < 20).mean()) < 0.15
    assert any("exact scan" in line and "segments" in line for line in rest)
    output = next(line for line in rest if "output" in line)
    for name in ("id", "title", "brand", "country", "ts", "price", "tags"):
        assert name in output
    assert "embedding not" in output
    assert "measured" not in text


def test_41_analyze_runs_it_and_adds_what_was_measured(items, Q):
    text = str(items.filter("price < 20").search(Q).explain(analyze=True))
    assert "measured" in text
    assert f"{10 * len(Q)} rows" in text
    assert " ms" in text


def test_42_a_result_has_length_schema_head_and_metrics(items, Q, nearest):
    hits = items.search(Q).collect()
    assert isinstance(hits, gv.Result)
    assert len(hits) == 10 * len(Q)
    assert list(hits.schema.fields) == list(hits.columns)
    assert hits.columns[:4] == ("query_id", "rank", "id", "distance")
    head = hits.head(3)
    assert isinstance(head, gv.Result)
    assert head["id"].tolist() == nearest(Q[0])["id"][:3].tolist()
    assert hits.metrics.seconds > 0
    assert hits.metrics.output_rows == len(hits)
    assert hits.metrics.output_bytes > 0
    assert hits.metrics.recall == 1.0


def test_43_results_leave_to_every_library_with_the_same_values(items, Q):
    hits = items.search(Q).select("query_id", "rank", "id", "distance", "price", "embedding")
    hits = hits.collect()
    arrow, pandas, polars = hits.to_arrow(), hits.to_pandas(), hits.to_polars()
    numpy = hits.to_numpy()
    assert isinstance(arrow, pa.Table)
    assert isinstance(pandas, pd.DataFrame)
    assert isinstance(polars, pl.DataFrame)
    for name in ("query_id", "rank", "id", "distance"):
        values = arrow[name].to_pylist()
        assert pandas[name].tolist() == polars[name].to_list() == numpy[name].tolist() == values
    nulls = arrow["price"].is_null().to_pylist()
    assert pandas["price"].isna().tolist() == polars["price"].is_null().to_list() == nulls
    vectors = np.stack(pandas["embedding"].to_numpy())
    np.testing.assert_array_equal(vectors, polars["embedding"].to_numpy())
    np.testing.assert_array_equal(vectors, numpy["embedding"])
    assert pa.types.is_fixed_size_list(arrow.schema.field("embedding").type)


def test_43_duckdb_reads_a_result_as_it_is(items, Q):
    hits = items.search(Q).collect()
    found = duckdb.sql("from hits select brand, avg(distance) as d group by brand").fetchall()
    wanted = hits.to_pandas().groupby("brand")["distance"].mean()
    assert len(found) == len(wanted)
    for brand, mean in found:
        assert mean == pytest.approx(wanted[brand], rel=1e-5)


def test_43_duckdb_polars_and_arrow_read_a_frame_as_it_is(items, q):
    frame = items.search(q, k=7)
    wanted = frame.to_arrow()
    assert duckdb.sql("from frame").to_arrow_table()["id"].equals(wanted["id"])
    assert pa.table(frame).equals(wanted)
    assert pl.DataFrame(frame).equals(frame.to_polars())


def test_56_settings_are_set_for_the_process_or_for_a_block():
    gv.config.set(progress=False)
    assert gv.config["progress"] is False
    with gv.config.set(progress=True):
        assert gv.config["progress"] is True
    assert gv.config["progress"] is False
    seen = []
    with gv.config.set(progress=seen.append):
        assert gv.config["progress"] == seen.append
    with pytest.raises(gv.NotFoundError, match=r'Did you mean "progress"\?'):
        gv.config.set(progres=False)
