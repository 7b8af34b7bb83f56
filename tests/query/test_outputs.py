"""Answers leave as they are asked."""

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpuvec.api.frame import frame
from gpuvec.errors import AlreadyExistsError, NotFoundError
from tests.query.tables import make_queries, make_table


@pytest.fixture
def table():
    return make_table(4, rows=150)


@pytest.fixture
def search(table):
    return table.frame.search(make_queries(5, 6), k=8)


def test_all_forms_hold_the_same_rows(search):
    arrow = search.to_arrow()
    assert len(search.collect()) == arrow.num_rows == 48
    assert search.to_pandas().id.tolist() == arrow["id"].to_pylist()
    assert search.to_polars()["id"].to_list() == arrow["id"].to_pylist()
    assert search.to_numpy()["id"].tolist() == arrow["id"].to_pylist()
    torch = pytest.importorskip("torch")
    tensors = search.select("id", "distance").to_torch()
    assert tensors["distance"].dtype == torch.float32
    assert tensors["id"].tolist() == arrow["id"].to_pylist()


def test_frames_and_results_are_arrow_streams(search):
    arrow = search.to_arrow()
    assert pa.table(search).equals(arrow)
    assert pa.table(search.collect()).equals(arrow)
    assert pl.DataFrame(search.collect()).height == 48
    hits = search.collect()
    assert duckdb.sql("select count(*) from hits").fetchall() == [(48,)]
    hits = search  # noqa: F841
    assert duckdb.sql("select count(*) from hits where rank = 1").fetchall() == [(6,)]


def test_batches_have_the_size_asked_for(search):
    sizes = [batch.num_rows for batch in search.to_batches(20)]
    assert sizes == [20, 20, 8]
    whole = pa.Table.from_batches(list(search.to_batches(20)))
    assert whole.equals(search.to_arrow().combine_chunks())


def test_batches_of_vectors_are_fixed_size_lists(table):
    batch = next(table.frame.to_batches(10))
    assert batch.schema.field("embedding").type == pa.list_(pa.float32(), 8)
    empty = list(table.frame.filter("price > 5").to_batches(10))
    assert empty == []
    assert table.frame.filter("price > 5").to_arrow().schema == batch.schema


def test_a_parquet_file_is_written_whole_or_not_at_all(search, tmp_path):
    target = tmp_path / "new" / "hits.parquet"
    search.to_parquet(target)
    assert pq.read_table(target).equals(search.to_arrow().combine_chunks())
    broken = make_table(4, memory_limit=1 << 16).frame.search(make_queries(5, 6), k=8)
    search.collect().to_parquet(target)  # replaces
    assert pq.read_table(target).num_rows == 48
    assert [path.name for path in target.parent.iterdir()] == ["hits.parquet"]
    assert broken.count() == 48


def test_a_folder_is_partitioned_by_values(search, tmp_path):
    search.to_parquet(tmp_path / "out", partition_by="brand")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert "brand=acme" in names
    back = pq.read_table(tmp_path / "out")
    assert back.num_rows == 48
    with pytest.raises(AlreadyExistsError, match="GV-366"):
        search.to_parquet(tmp_path / "out")
    with pytest.raises(NotFoundError):
        search.to_parquet(tmp_path / "more", partition_by="brnd")


def test_queries_come_from_parquet_files_row_group_by_row_group(table, tmp_path):
    queries = make_queries(6, 1000)
    whole = pa.table(
        {"user": np.arange(1000) + 7, "vec": pa.FixedSizeListArray.from_arrays(queries.ravel(), 8)}
    )
    pq.write_table(whole.slice(0, 600), tmp_path / "a.parquet", row_group_size=100)
    pq.write_table(whole.slice(600), tmp_path / "b.parquet", row_group_size=100)
    found = table.frame.search(str(tmp_path / "*.parquet"), k=2, query_id="user").to_arrow()
    wanted = table.frame.search(queries, k=2).to_arrow()
    assert found["id"].equals(wanted["id"])
    assert found["query_id"].to_pylist() == [q + 7 for q in wanted["query_id"].to_pylist()]
    files = frame(str(tmp_path / "a.parquet"))
    assert files.count() == 600
    assert files.filter("user >= 600").select("user").to_arrow()["user"].to_pylist() == list(
        range(600, 607)
    )
    far = files.filter("user >= 450").search(queries[455], k=1, metric="l2").collect()
    assert far["row"].tolist() == [455]
    near = files.search(queries[:3], k=1, metric="l2").collect()
    assert near["distance"].tolist() == [0, 0, 0]


def test_results_show_their_first_rows_and_short_vectors(table):
    result = table.frame.collect()
    text = repr(result)
    assert text.startswith(f"Result {len(table):,} rows")
    assert "] 8×f32" in text  # noqa: RUF001
    html = result._repr_html_()
    assert "<table>" in html
    assert "8×f32" in html  # noqa: RUF001
    tags = frame({"x": ["<b>&"]}).collect()._repr_html_()
    assert "&lt;b&gt;&amp;" in tags


def test_frames_show_columns_and_plan_and_run_nothing(search, monkeypatch):
    monkeypatch.setattr("gpuvec.query.memory_source.MemorySource.snapshot", None)
    assert "Search embedding k=8" in repr(search)
    assert "exact" not in repr(search)  # only its indexes tell, and they are not looked at
    html = search._repr_html_()
    assert "query_id" in html
    assert "has not run" in html


def test_rows_go_on_without_a_copy(table):
    result = table.frame.collect()
    again = frame(result, primary_key="id").collect()
    values = result.rows.vectors["embedding"].values
    assert np.shares_memory(values, again.rows.vectors["embedding"].values)
    assert frame(table.frame.drop("embedding")).columns == ("id", "price", "brand")


def test_metrics_tell_what_was_done(search):
    result = search.collect()
    assert result.metrics.queries == 6
    assert result.metrics.output_rows == 48
    assert result.metrics.recall == 1.0
    assert result.metrics.segments == 3
    assert result.metrics.seconds > 0
    assert result.head(5).to_arrow().num_rows == 5
