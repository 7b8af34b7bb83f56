import pickle

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuvec.errors import GpuvecError, NotFoundError, SchemaError
from gpuvec.schema import (
    FIELD_TYPES,
    JSON,
    BinaryVector,
    Bool,
    FieldType,
    Float32,
    Int64,
    List,
    Schema,
    SparseVector,
    String,
    Timestamp,
    Vector,
    field_from_json,
)

STEADY = settings(deadline=None, derandomize=True)
SCALARS = [kind for kind in FIELD_TYPES.values() if not issubclass(kind, List) and kind not in
           (Vector, BinaryVector, SparseVector)]  # fmt: skip
VECTORS = st.one_of(
    st.builds(
        Vector,
        st.integers(1, 4096),
        dtype=st.sampled_from(["float32", "float16", "bfloat16", "int8", "uint8"]),
        metric=st.sampled_from(["cosine", "l2", "sqeuclidean", "ip"]),
        nullable=st.booleans(),
    ),
    st.builds(
        BinaryVector,
        st.integers(1, 512).map(lambda n: n * 8),
        metric=st.sampled_from(["hamming", "jaccard"]),
        nullable=st.booleans(),
    ),
    st.builds(SparseVector, metric=st.sampled_from(["ip", "cosine"]), nullable=st.booleans()),
)
SCALAR = st.sampled_from(SCALARS).flatmap(lambda kind: st.builds(kind, nullable=st.booleans()))
FIELDS = st.one_of(SCALAR, st.builds(List, SCALAR, nullable=st.booleans()), VECTORS)


@STEADY
@given(FIELDS)
def test_a_field_type_survives_json(kind: FieldType):
    assert field_from_json(kind.to_json()) == kind


@STEADY
@given(st.dictionaries(st.text(min_size=1).filter(lambda n: not n.startswith("_gv_")), FIELDS))
def test_a_schema_survives_json(fields):
    schema = Schema({**fields, "the key": Int64()}, "the key", dynamic=True)
    again = Schema.from_json(schema.to_json())
    assert again == schema
    assert again.dynamic
    assert list(again.fields) == list(schema.fields)


def test_scalars_and_vectors_are_told_apart_in_order():
    schema = Schema({"v": Vector(2), "id": Int64(), "s": SparseVector(), "t": String()}, "id")
    assert list(schema.scalar_fields) == ["id", "t"]
    assert list(schema.vector_fields) == ["v", "s"]


def test_the_arrow_schema_says_what_may_be_null():
    schema = Schema({"id": Int64(), "t": Timestamp(nullable=True), "v": Vector(2)}, "id")
    assert schema.arrow_schema() == pa.schema(
        [pa.field("id", pa.int64(), nullable=False), pa.field("t", pa.timestamp("us", "UTC"))]
    )


@pytest.mark.parametrize(
    ("make", "code", "text"),
    [
        (lambda: Schema({"_gv_ts": Int64()}, "_gv_ts"), "GV-101", "_gv_"),
        (lambda: Schema({"": Int64()}, ""), "GV-101", "''"),
        (lambda: Schema({"id": int}, "id"), "GV-102", "gv.Int64()"),  # type: ignore[dict-item]
        (lambda: Vector(0), "GV-102", "at least 1"),
        (lambda: Vector(2.0), "GV-102", "whole number"),  # type: ignore[arg-type]
        (lambda: Vector(2, dtype="float8"), "GV-102", "bfloat16"),
        (lambda: Vector(2, metric="hamming"), "GV-102", "cosine"),
        (lambda: BinaryVector(12), "GV-102", "divisible by 8"),
        (lambda: SparseVector(metric="l2"), "GV-102", "ip"),
        (lambda: Schema({"id": Float32()}, "id"), "GV-103", "Int64 or String"),
        (lambda: Schema({"id": Int64(nullable=True)}, "id"), "GV-103", "not null"),
        (
            lambda: Schema({"id": String(), "n": Int64(auto=True)}, "id"),
            "GV-102",
            "only the primary key",
        ),
        (
            lambda: Schema({"id": String(), "v": Vector(2)}, "id", partition_key="v"),
            "GV-102",
            "vector",
        ),
    ],
)
def test_a_schema_that_cannot_be_is_refused(make, code, text):
    with pytest.raises(SchemaError) as caught:
        make()
    assert caught.value.code == code
    assert text in str(caught.value)


@pytest.mark.parametrize("option", ["primary_key", "partition_key"])
def test_a_key_that_is_no_field_names_the_nearest(option):
    keys = {"primary_key": "id", option: "brnd"}
    with pytest.raises(NotFoundError, match='Did you mean "brand"'):
        Schema({"id": Int64(), "brand": String()}, **keys)


def test_fields_come_and_go_without_changing_the_schema_they_came_from():
    schema = Schema({"id": Int64(), "a": Bool()}, "id", partition_key="a")
    more = schema.with_field("meta", JSON(nullable=True))
    assert list(more.fields) == ["id", "a", "meta"]
    assert list(schema.fields) == ["id", "a"]
    assert more.without_field("meta") == schema


def test_errors_travel_between_processes():
    with pytest.raises(GpuvecError) as caught:
        Vector(2, dtype="float8")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.code, str(again)) == ("GV-102", str(caught.value))
    assert again.details == caught.value.details
