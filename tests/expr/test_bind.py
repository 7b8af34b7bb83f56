"""Names and types: what fits a schema, and what is said of what does not."""

import numpy as np
import pytest

from gpuvec.errors import FilterError, NotFoundError, SchemaError
from gpuvec.expr.bind import as_filter, bind, bind_filter
from gpuvec.expr.tree import col, count, left, lit, right
from gpuvec.schema import (
    JSON,
    BinaryVector,
    Bool,
    Float32,
    Float64,
    Int8,
    Int64,
    List,
    Schema,
    SparseVector,
    String,
    Timestamp,
    Vector,
)

FIELDS = {
    "id": Int64(),
    "small": Int8(nullable=True),
    "title": String(),
    "brand": String(),
    "price": Float32(nullable=True),
    "ok": Bool(),
    "ts": Timestamp(),
    "tags": List(String(), nullable=True),
    "meta": JSON(nullable=True),
    "embedding": Vector(3, metric="l2"),
    "bits": BinaryVector(16),
    "words": SparseVector(),
}
WHERE = 'collection "items"'
c = col


def test_an_unknown_field_names_the_nearest_and_all():
    with pytest.raises(NotFoundError) as found:
        bind_filter(c("prcie") < 10, FIELDS, where=WHERE)
    assert str(found.value).splitlines() == [
        '[GV-104] no field "prcie" in collection "items". Did you mean "price"?',
        "  fields: id, small, title, brand, price, ok, ts, tags, meta, embedding, bits, words",
    ]


def test_a_type_error_shows_the_text_with_a_caret():
    with pytest.raises(FilterError) as found:
        bind_filter(as_filter("price < 20 and brand == 3"), FIELDS)
    assert str(found.value).splitlines() == [
        '[GV-202] cannot compare string field "brand" with number',
        "  price < 20 and brand == 3",
        "                       ^ here",
    ]


def test_an_expression_of_python_is_shown_as_text_with_a_caret():
    with pytest.raises(FilterError) as found:
        bind_filter((c("price") < 20) & (c("ok") | c("brand")), FIELDS)
    assert str(found.value).splitlines() == [
        '[GV-202] "or" needs a condition, got string field "brand"',
        "  price < 20 and (ok or brand)",
        "                        ^ here",
    ]


@pytest.mark.parametrize(
    ("text", "code", "problem"),
    [
        ("id", "GV-202", "a filter needs a condition"),
        ("not id == 1", "GV-202", '"not" binds tightly'),
        ("id == null", "GV-206", "is null"),
        ("id in [1, null]", "GV-206", "is null"),
        ("id in ['a']", "GV-202", "cannot compare int64 field \"id\" with 'a'"),
        ("tags in ['a']", "GV-202", "cannot compare list field \"tags\" with 'a'"),
        ("ok < true", "GV-202", "no order"),
        ("ts == 5", "GV-202", 'cannot compare timestamp field "ts" with number'),
        ("ts < 'soon'", "GV-202", '"soon" is no time'),
        ("ts in ['soon']", "GV-202", '"soon" is no time'),
        ("ts < brand", "GV-202", "cannot compare a timestamp with string field"),
        ("tags == 'a'", "GV-202", "array_contains"),
        ("embedding == 1", "GV-202", "vector field"),
        ("brand + 1 > 2", "GV-202", "wanted a number"),
        ("-brand > 2", "GV-202", "wanted a number"),
        ("meta < ts", "GV-202", "JSON"),
        ("meta < true", "GV-202", "no order"),
        ("sum(id) > 3", "GV-202", "group of rows"),
        ("nothing(id) > 3", "GV-209", "no function"),
        ("lenght(brand) > 3", "GV-209", 'Did you mean "length"?'),
        ("length(brand, 3) > 3", "GV-202", "takes 1 arguments, got 2"),
        ("abs(brand) > 3", "GV-202", "abs(number)"),
        ("array_contains(id, 1)", "GV-202", "array_contains(list, value)"),
        ("array_contains(tags, ['a'])", "GV-202", "array_contains(list, value)"),
        ("array_contains_all(tags, 'a')", "GV-202", "array_contains_all(list, [values])"),
        ("array_contains(tags, 3)", "GV-202", "with 3"),
        ("tags['a'] == 'b'", "GV-202", "tags[0]"),
        ("tags[-1] == 'b'", "GV-202", "count from 0"),
        ("id[0] == 1", "GV-202", "cannot look into"),
        ("brand like 'a\\\\'", "GV-202", "backslash"),
        ("id like 'a'", "GV-202", '"like" is for text'),
        ("starts_with(brand, title)", "GV-202", "text in quotes"),
        ("fill_null(brand, 3) == 'a'", "GV-202", "cannot fill"),
        ("fill_null(brand, null) == 'a'", "GV-206", "null"),
        ("id + 99999999999999999999 > 1", "GV-202", "64 bits"),
        ("distance(id, [1]) < 1", "GV-202", "vector fields"),
        ("distance(words, [1]) < 1", "GV-202", "dense and binary"),
        ("distance(embedding, ['a']) < 1", "GV-202", "list of numbers"),
        ("distance(embedding, [1, 2, 3], 'hamming') < 1", "GV-202", "cosine, l2"),
        ("price < {p}", "GV-203", "no value for the parameter"),
    ],
)
def test_what_does_not_fit_says_why(text, code, problem):
    with pytest.raises(FilterError) as found:
        bind_filter(as_filter(text), FIELDS)
    assert found.value.code == code
    assert problem in str(found.value)
    assert "^" in str(found.value)


def test_a_query_of_another_dimension_is_refused():
    with pytest.raises(SchemaError, match="queries have 2 dimensions"):
        bind(c("embedding").distance([1, 2]), FIELDS)


def test_a_bound_expression_knows_its_columns_and_type():
    bound = bind((c("price") * 2 + c("id")).alias("x"), FIELDS)
    assert bound.columns == {"price", "id"}
    assert isinstance(bound.type, Float64)
    assert isinstance(bind(c("id") * c("small"), FIELDS).type, Int64)
    assert isinstance(bind(c("price"), FIELDS).type, Float32)
    assert isinstance(bind(c("tags")[0], FIELDS).type, String)
    assert isinstance(bind(c("meta")["a"], FIELDS).type, JSON)
    assert isinstance(bind(lit(3) / 4, FIELDS).type, Float64)


def test_distances_are_numbered_and_their_fields_are_no_scalar_columns():
    near = c("embedding").distance(np.array([1, 2, 3], np.float16))
    bound = bind(near + c("bits").distance([1, 255], "jaccard") * c("id"), FIELDS)
    assert bound.columns == {"id"}
    assert bound.vectors == {"embedding", "bits"}
    first, second = bound.distances
    assert (first.number, first.metric, first.values.dtype) == (0, "l2", np.float32)
    assert (second.number, second.metric, second.values.dtype) == (1, "jaccard", np.uint8)


def test_unknown_names_are_dynamic_where_the_schema_is():
    schema = Schema({"id": Int64()}, "id", dynamic=True)
    for fields in (schema, {**schema.fields, "_gv_dynamic": String(nullable=True)}):
        assert bind_filter(c("color") == "red", fields).columns == {"_gv_dynamic"}
        assert bind_filter(as_filter("$meta['color'] == 'red'"), fields).columns == {"_gv_dynamic"}
        assert bind_filter(c("id") == 1, fields).columns == {"id"}
    with pytest.raises(NotFoundError):
        bind_filter(c("color") == "red", {"id": Int64()})


def test_sides_of_a_join_are_told_apart():
    fields = {"left.seen": Timestamp(), "right.ts": Timestamp()}
    assert bind_filter(left("seen") < right("ts"), fields).columns == {"left.seen", "right.ts"}


def test_aggregates_and_vectors_are_no_values():
    for expr in (count() > 1, c("id").max(), c("embedding"), lit(None)):
        with pytest.raises(FilterError):
            bind(expr, FIELDS)


def test_nesting_beyond_reason_is_an_error():
    deep = c("id")
    for _ in range(5000):
        deep = -deep
    with pytest.raises(FilterError, match="GV-208"):
        bind_filter(deep > 1, FIELDS)
