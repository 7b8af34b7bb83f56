import numpy as np
import pyarrow as pa
import pytest

from gpuvec.rows import DenseVectors, Rows, SparseVectors
from gpuvec.schema import VECTOR_DTYPES
from gpuvec.wal.record import WriteRecord, decode_records, encode_records

RNG = np.random.default_rng(0)


def round_trip(*records: WriteRecord) -> tuple[WriteRecord, ...]:
    return decode_records(b"".join(bytes(part) for part in encode_records(records)))


def write(**parts) -> WriteRecord:
    return WriteRecord(ts=1, request_id="r", operation="insert", **parts)


def assert_same(one: Rows, two: Rows):
    assert one.order == two.order
    assert one.table.equals(two.table)
    for name, column in one.vectors.items():
        other = two.vectors[name]
        assert type(other) is type(column)
        for part in type(column).__slots__:
            a, b = getattr(column, part), getattr(other, part)
            assert (a is None) == (b is None)
            if a is not None:
                assert a.dtype == b.dtype
                assert a.shape == b.shape
                assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("count", [0, 1, 37])
@pytest.mark.parametrize("dtype", list(VECTOR_DTYPES))
def test_rows_of_every_vector_type_come_back(count, dtype):
    values = RNG.integers(0, 100, (count, 5)).astype(VECTOR_DTYPES[dtype])
    sparse = SparseVectors(
        np.arange(count + 1) * 2,
        np.arange(2 * count, dtype=np.uint32),
        np.ones(2 * count, np.float32),
        np.arange(count) % 2 == 0,
    )
    table = pa.table({"id": np.arange(count), "text": ["ä" * (i % 3) for i in range(count)]})
    rows = Rows(
        table,
        {"dense": DenseVectors(values, np.arange(count) % 3 == 0), "sparse": sparse},
        ("dense", "id", "sparse", "text"),
    )
    (found,) = round_trip(write(rows=rows))
    assert_same(rows, found.rows)


def test_the_facts_of_a_write_come_back():
    record = WriteRecord(
        ts=2**62,
        request_id="ab" * 16,
        operation="upsert",
        partition="2026-ü",
        schema_version=4,
        delete_keys=pa.array(["a", "b"]),
        inserted=3,
        updated=2,
        deleted=1,
        first_auto_id=77,
    )
    (found,) = round_trip(record)
    assert found.delete_keys.to_pylist() == ["a", "b"]
    for name in ("ts", "request_id", "operation", "partition", "schema_version"):
        assert getattr(found, name) == getattr(record, name)
    for name in ("inserted", "updated", "deleted", "first_auto_id", "rows"):
        assert getattr(found, name) == getattr(record, name)


def test_records_of_a_group_keep_their_order():
    records = [write(rows=Rows(pa.table({"id": [i]}))) for i in range(5)]
    assert [r.rows.table["id"].to_pylist() for r in round_trip(*records)] == [[i] for i in range(5)]


def test_slices_are_written_without_their_neighbours():
    rows = Rows(pa.table({"id": range(1000)}), {"v": DenseVectors(np.ones((1000, 64), np.float32))})
    part = rows.slice(10, 12)
    assert sum(len(bytes(p)) for p in encode_records([write(rows=part)])) < 3000
    assert_same(part, round_trip(write(rows=part))[0].rows)


def test_columns_that_are_not_contiguous_are_written_in_row_order():
    values = np.asfortranarray(RNG.standard_normal((6, 4)))[::2].astype(np.float32, order="F")
    (found,) = round_trip(write(rows=Rows(pa.table({"id": range(3)}), {"v": DenseVectors(values)})))
    assert np.array_equal(found.rows.vectors["v"].values, values)


def test_vectors_are_not_copied_on_the_way_in_or_out():
    values = np.ones((100, 8), np.float32)
    parts = encode_records(
        [write(rows=Rows(pa.table({"id": range(100)}), {"v": DenseVectors(values)}))]
    )
    assert any(np.shares_memory(np.frombuffer(p, np.uint8), values) for p in parts if len(p))
    body = b"".join(bytes(part) for part in parts)
    (found,) = decode_records(body)
    assert np.shares_memory(found.rows.vectors["v"].values, np.frombuffer(body, np.uint8))
