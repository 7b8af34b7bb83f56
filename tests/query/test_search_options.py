"""What a search refuses, and what it says."""

import numpy as np
import pytest

from gpuvec.api.frame import frame
from gpuvec.errors import NotFoundError, QueryError, ResultTooLargeError, SchemaError
from gpuvec.query import build_search
from gpuvec.query.estimate import check_fits
from tests.query.tables import make_queries, make_table

Q = make_queries(1, 3)
REFUSED = [
    ({"recall": 0.9, "exact": True}, "recall and exact cannot be combined"),
    ({"recall": 0.9, "params": {"ef": 4}}, "recall and params"),
    ({"params": {"n_probes": 4}}, "GV-351"),
    ({"params": [1]}, "params must be a dict of an index's knobs"),
    ({"params": "effort"}, "params must be a dict of an index's knobs"),
    ({"recall": 0}, "recall must be a number above 0"),
    ({"recall": 1.5}, "recall must be a number above 0"),
    ({"recall": "a"}, "recall must be a number above 0 and at most 1, got 'a'"),
    ({"recall": True}, "recall must be a number above 0"),
    ({"recall": [0.9]}, "recall must be a number above 0"),
    ({"recall": np.float32("nan")}, "recall must be a number above 0"),
    ({"exact": "yes"}, "exact must be True or False, got 'yes'"),
    ({"exact": None}, "exact must be True or False"),
    ({"exact": 1}, "exact must be True or False"),
    ({"exclude_self": "no"}, "exclude_self must be True or False"),
    ({"k": 0}, "k must be a whole number of at least 1"),
    ({"k": 2.5}, "k must be"),
    ({"radius": (0.5, 0.1)}, "low < high"),
    ({"radius": "far"}, "radius must be a number"),
    ({"radius": "0.5"}, "radius must be a number"),
    ({"radius": True}, "radius must be a number"),
    ({"radius": (0.1, 0.2, 0.3)}, "radius must be a number"),
    ({"radius": float("nan")}, "radius must be a number"),
    ({"group_size": 2}, "there is no group_by"),
    ({"group_by": "brand", "group_size": 0}, "group_size must be"),
    ({"group_by": "embedding"}, "cannot be grouped by"),
    ({"metric": "hamming"}, 'metric "hamming" does not measure'),
    ({"metric": "cosin"}, 'Did you mean "cosine"'),
    ({"exclude_self": True}, "these queries are vectors only"),
    ({"query_id": "id"}, "GV-356"),
    ({"query_on": "id", "query_id": "id"}, "query_on and query_id"),
    ({"on": "price"}, "not a vector column"),
    ({"on": 5}, "on must be the name of a column, got 5"),
    ({"on": ["embedding"]}, "on must be the name of a column"),
    ({"group_by": 5}, "group_by must be the name of a column"),
    ({"group_by": ["brand"]}, "group_by must be the name of a column"),
]


@pytest.mark.parametrize(("options", "text"), REFUSED, ids=range(len(REFUSED)))
def test_options_that_cannot_be_are_refused_when_the_query_is_built(options, text):
    with pytest.raises(QueryError) as caught:
        make_table(1).frame.search(Q, **options)
    assert text in str(caught.value)


def test_columns_of_query_frames_are_named_by_text():
    rows = make_table(1).frame
    for option in ("query_on", "query_id"):
        with pytest.raises(QueryError, match=f"{option} must be the name of a column"):
            rows.search(rows.limit(3), **{option: ["id"]})


def test_numbers_of_numpy_are_numbers():
    rows = make_table(1).frame
    for recall in (np.float32(0.9), np.float64(0.9), np.float16(0.9), np.int64(1)):
        search = rows.search(Q, k=np.int32(3), recall=recall).plan
        assert type(search.recall) is float
        assert search.recall == float(recall)
    assert rows.search(Q, exact=np.bool_(True)).plan.exact is True


def test_unknown_columns_are_refused():
    table = make_table(1)
    for options in ({"on": "embeding"}, {"group_by": "brnd"}):
        with pytest.raises(NotFoundError, match="Did you mean"):
            table.frame.search(Q, **options)
    with pytest.raises(NotFoundError, match="Did you mean"):
        table.frame.search(table.frame, query_id="idd")


def test_queries_of_another_dimension_are_refused():
    table = make_table(1)
    with pytest.raises(SchemaError, match='queries have 5 dimensions; field "embedding"') as caught:
        table.frame.search(Q[:, :5])
    assert caught.value.code == "GV-113"
    with pytest.raises(SchemaError, match="queries have 4 dimensions"):
        table.frame.search(frame({"v": np.zeros((2, 4), np.float32)}))


def test_queries_of_another_kind_are_refused():
    bits = make_table(1, metric="hamming")
    with pytest.raises(QueryError, match="GV-364"):
        bits.frame.search(make_table(2).frame)


def test_several_vector_columns_need_a_name():
    both = frame({"a": np.eye(3, dtype=np.float32), "b": np.eye(3, dtype=np.float32)})
    with pytest.raises(QueryError, match="on must name one") as caught:
        both.search([1.0, 0, 0])
    assert "a, b" in str(caught.value)
    assert len(both.search([1.0, 0, 0], k=2, on="b").collect()) == 2
    with pytest.raises(QueryError, match="query_on must name one"):
        both.search(both, on="a")
    with pytest.raises(QueryError, match="no vector column"):
        frame({"x": [1]}).search([1.0])


def test_own_rows_need_keys_of_one_type_on_both_sides():
    table, text = make_table(1), make_table(2, text_keys=True)
    with pytest.raises(QueryError, match="keys are int64 here and string"):
        table.frame.search(text.frame, exclude_self=True)
    keyless = frame({"v": Q})
    with pytest.raises(QueryError, match="this frame has none"):
        keyless.search(keyless, exclude_self=True)
    with pytest.raises(QueryError, match="the query frame has none"):
        table.frame.search(keyless, exclude_self=True)


def test_fields_with_the_names_of_answers_get_a_suffix():
    data = {
        "rank": [1, 2],
        "distance": ["a", "b"],
        "rank_right": [3, 4],
        "query_id": [5, 6],
        "v": Q[:2],
    }
    found = frame(data).search(Q[0], k=1)
    assert found.columns == (
        "query_id", "rank", "row", "distance", "rank_right_right", "distance_right", "rank_right",
        "query_id_right",
    )  # fmt: skip
    values = {name: column[0] for name, column in found.to_numpy().items()}
    assert values["rank_right_right"] == 1
    assert values["rank_right"] == 3
    keyed = frame({"rank": [7, 8], "v": Q[:2]}, primary_key="rank").search(Q[0], k=1)
    assert keyed.columns == ("query_id", "rank", "rank_right", "distance")
    assert keyed.collect()["rank_right"].tolist() == [7]


def test_the_types_of_an_answer_are_the_promised_ones():
    table = make_table(1, text_keys=True).frame.search(Q, k=2).to_arrow()
    assert str(table.schema.field("query_id").type) == "int64"
    assert str(table.schema.field("rank").type) == "int32"
    assert str(table.schema.field("distance").type) == "float"
    assert str(table.schema.field("id").type) == "string"


def test_the_default_k_shows_as_ten_and_is_told_from_a_given_ten():
    assert repr(build_search.DEFAULT_K) == "10"
    table = make_table(1, rows=100)
    assert len(table.frame.search(Q[0]).collect()) == 10
    assert len(table.frame.search(Q[0], k=10, radius=1e9).collect()) == 10
    assert len(table.frame.search(Q[0], radius=1e9).collect()) > 50


def test_an_answer_larger_than_memory_is_refused_before_work_starts():
    table = make_table(1, memory_limit=1 << 20)
    huge = table.frame.search(np.zeros((100_000, 8), np.float32), k=1000)
    with pytest.raises(ResultTooLargeError) as caught:
        huge.collect()
    assert caught.value.details["rows"] > 10_000_000
    assert "to_parquet" in str(caught.value)
    assert next(huge.to_batches()).num_rows > 0


def test_an_answer_of_unknown_size_is_refused_when_it_grows_too_large():
    table = make_table(1, rows=500, memory_limit=1 << 17)
    with pytest.raises(ResultTooLargeError):
        table.frame.search(np.zeros((200, 8), np.float32), radius=1e9).collect()


def test_deleted_rows_do_not_count_towards_the_estimate():
    table = make_table(1)
    check_fits(table.frame.plan, {id(table.frame.plan.source): 10}, 10 * 1000)
