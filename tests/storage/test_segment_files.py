"""Segments: what goes in comes out, and no changed byte is ever used."""

import json
import threading
from collections import Counter

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpuvec import schema as gv
from gpuvec.errors import CorruptError
from gpuvec.rows import DenseVectors, Rows, SparseVectors
from gpuvec.storage.local import LocalStore
from gpuvec.storage.memory import MemoryStore
from gpuvec.storage.records import FileRecord, SegmentFiles
from gpuvec.storage.segment_files import (
    SegmentReader,
    read_deletes,
    write_deletes,
    write_segment,
)
from gpuvec.testing.faults import FaultStore

PREFIX, SEGMENT = "collections/c-1", "01a"
SCHEMA = gv.Schema(
    {
        "id": gv.Int64(),
        "Größe": gv.Float64(nullable=True),
        "name": gv.String(nullable=True),
        "tags": gv.List(gv.String()),
        "extra": gv.JSON(nullable=True),
        "born": gv.Timestamp(),
        "ok": gv.Bool(),
        "f32": gv.Vector(12),
        "f16": gv.Vector(6, dtype="float16"),
        "bf16": gv.Vector(5, dtype="bfloat16", nullable=True),
        "i8": gv.Vector(7, dtype="int8"),
        "u8": gv.Vector(3, dtype="uint8"),
        "bits": gv.BinaryVector(16),
        "words": gv.SparseVector(nullable=True),
    },
    primary_key="id",
)


def make_rows(n, seed=0):
    rng = np.random.default_rng(seed)
    names = [None if i % 7 == 0 else f"name {i % 13}" for i in range(n)]
    table = pa.table(
        {
            "id": np.arange(n) * 3,
            "Größe": [None if i % 5 == 0 else i / 8 for i in range(n)],
            "name": names,
            "tags": [[f"t{j}" for j in range(i % 4)] for i in range(n)],
            "extra": [None if i % 3 else '{"a": 1}' for i in range(n)],
            "born": pa.array(np.arange(n), pa.timestamp("us", tz="UTC")),
            "ok": [i % 2 == 0 for i in range(n)],
        },
        schema=SCHEMA.arrow_schema(),
    )
    lengths = rng.integers(0, 5, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    words = SparseVectors(
        offsets,
        rng.integers(0, 1 << 32, offsets[-1], dtype=np.uint32),
        rng.random(offsets[-1], dtype=np.float32),
        lengths > 0,
    )
    valid = rng.random(n) > 0.3
    vectors = {
        "f32": DenseVectors(rng.random((n, 12), dtype=np.float32)),
        "f16": DenseVectors(rng.random((n, 6)).astype(np.float16)),
        "bf16": DenseVectors(rng.random((n, 5)).astype(ml_dtypes.bfloat16), valid),
        "i8": DenseVectors(rng.integers(-128, 128, (n, 7), dtype=np.int8)),
        "u8": DenseVectors(rng.integers(0, 256, (n, 3), dtype=np.uint8)),
        "bits": DenseVectors(rng.integers(0, 256, (n, 2), dtype=np.uint8)),
        "words": words,
    }
    return Rows(table, vectors)


def write(store, rows, schema=SCHEMA):
    files, record = write_segment(PREFIX, SEGMENT, schema, rows, 100 + np.arange(len(rows)))
    for key, parts in files:
        store.put(key, parts)
    return SegmentFiles.from_json(json.loads(json.dumps(record.to_json(), allow_nan=False)))


def same_bytes(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.fixture(params=["memory", "local"])
def store(request, tmp_path):
    return MemoryStore() if request.param == "memory" else LocalStore(tmp_path)


@pytest.mark.parametrize("n", [1000, 1, 0])
def test_rows_come_back_as_they_went_in(store, n):
    rows = make_rows(n)
    reader = SegmentReader(store, write(store, rows))
    assert reader.num_rows == n
    assert reader.scalars(rows.table.column_names).equals(rows.table)
    for name, wanted in rows.vectors.items():
        found = reader.vectors(name)
        arrays = ("offsets", "indices", "values") if name == "words" else ("values",)
        for array in arrays:
            assert same_bytes(getattr(found, array), getattr(wanted, array)), (name, array)
        all_valid = wanted.valid is None or wanted.valid.all()
        assert found.valid is None if all_valid else (found.valid == wanted.valid).all()
    assert reader.timestamps().tolist() == list(range(100, 100 + n))
    assert reader.primary_keys().equals(rows.table["id"])
    reader.verify()


def test_a_slice_is_written_as_that_slice(store):
    rows = make_rows(100).slice(30, 70)
    reader = SegmentReader(store, write(store, rows))
    assert reader.scalars(["id", "tags"]).equals(rows.table.select(["id", "tags"]))
    assert same_bytes(reader.vectors("f32").values, rows.vectors["f32"].values)
    assert same_bytes(reader.vectors("words").offsets, rows.vectors["words"].offsets)


def test_scalars_come_in_the_order_asked_for_hidden_ones_too(store):
    reader = SegmentReader(store, write(store, make_rows(20)))
    names = ["ok", "_gv_ts", "id", "Größe"]
    assert reader.scalars(names).column_names == names
    none = reader.scalars([])
    assert (none.num_rows, none.num_columns) == (20, 0)
    assert reader.scalar_names == [
        *SCHEMA.scalar_fields, "_gv_ts", "_gv_valid_bf16", "_gv_valid_words"
    ]  # fmt: skip


def test_columns_that_no_field_names_are_kept(store):
    rows = make_rows(20)
    table = rows.table.append_column("_gv_dynamic", pa.array(['{"x": 1}'] * 20))
    reader = SegmentReader(store, write(store, Rows(table, rows.vectors)))
    assert reader.scalars(["_gv_dynamic"])[0].to_pylist() == ['{"x": 1}'] * 20
    assert reader.statistics("_gv_dynamic") is None


def test_fields_of_text_keys_and_names_with_dots_are_found(store):
    schema = gv.Schema({"a": gv.String(), "a.b": gv.Int64(), "a.b.c": gv.Int64()}, "a")
    table = pa.table({"a": ["x", "y"], "a.b": [1, 2], "a.b.c": [3, 4]})
    table = table.cast(schema.arrow_schema())
    reader = SegmentReader(store, write(store, Rows(table), schema))
    assert reader.scalars(["a.b", "a"]).to_pydict() == {"a.b": [1, 2], "a": ["x", "y"]}
    assert reader.primary_keys().to_pylist() == ["x", "y"]


def test_statistics_are_known_without_reading(store):
    record = write(store, make_rows(100))
    counted = FaultStore(store)
    reader = SegmentReader(counted, record)
    assert (reader.statistics("id").low, reader.statistics("id").high) == (0, 297)
    assert (reader.statistics("_gv_ts").low, reader.statistics("_gv_ts").high) == (100, 199)
    assert reader.statistics("name").null_count == 15
    assert reader.statistics("tags") is reader.statistics("extra") is None
    assert counted.operations == []


def test_vectors_are_not_copied_on_their_way_to_the_file():
    rows = make_rows(50)
    files, _ = write_segment(PREFIX, SEGMENT, SCHEMA, rows, np.arange(50))
    addresses = {
        part.address for _, parts in files for part in parts if isinstance(part, pa.Buffer)
    }
    for name, column in rows.vectors.items():
        assert column.values.ctypes.data in addresses, name


def test_local_vectors_are_mapped_from_a_page_boundary(tmp_path):
    store = LocalStore(tmp_path)
    record = write(store, make_rows(100))
    for file in record.vectors.values():
        assert min(array.offset for array in file.arrays.values()) == 4096
    reader = SegmentReader(store, record)
    values = reader.vectors("f32").values
    assert values.ctypes.data % 4096 == 0
    assert not values.flags.writeable
    assert not values.flags.owndata
    assert reader.vectors("f32") is reader.vectors("f32")
    raw = np.memmap(store.local_path(record.vectors["f32"].key), np.float32, "r", 4096, (100, 12))
    assert np.array_equal(raw, values)


def test_other_programs_read_the_files(tmp_path):
    store = LocalStore(tmp_path)
    rows = make_rows(100)
    record = write(store, rows)
    table = pq.read_table(
        store.local_path(record.scalar.key), page_checksum_verification=True, columns=["id"]
    )
    assert table.equals(rows.table.select(["id"]))
    for name, file in record.vectors.items():
        found = pa.ipc.open_file(store.local_path(file.key).read_bytes()).read_all()
        found.validate(full=True)
        assert found.column_names == [name]
        assert len(found) == 100
    vectors = pa.ipc.open_file(store.local_path(record.vectors["f32"].key).read_bytes()).read_all()
    assert np.array_equal(
        np.array(vectors["f32"].to_pylist(), np.float32), rows.vectors["f32"].values
    )


def use_everything(store, record):
    reader = SegmentReader(store, record)
    reader.scalars(["id", "name"])
    for name in record.vectors:
        reader.vectors(name)


@pytest.mark.parametrize("which", range(8))
def test_a_flipped_bit_anywhere_is_an_error_that_names_the_file(tmp_path, which):
    store = LocalStore(tmp_path)
    record = write(store, make_rows(40))
    file = record.files[which]
    path = store.local_path(file.key)
    whole = path.read_bytes()
    rng = np.random.default_rng(which)
    for position in [0, len(whole) - 1, *rng.integers(0, len(whole), 20)]:
        broken = bytearray(whole)
        broken[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        with pytest.raises(CorruptError, match=file.key) as caught:
            use_everything(store, record)
        assert caught.value.code == "GV-503"
    path.write_bytes(whole)
    use_everything(store, record)


@pytest.mark.parametrize("which", range(8))
def test_a_file_cut_short_or_missing_is_an_error_that_names_it(store, which):
    record = write(store, make_rows(40))
    file = record.files[which]
    whole = store.get(file.key)
    for broken in (whole[:-1], whole[: len(whole) // 2], b"", whole + b"\0"):
        store.put(file.key, [broken])
        with pytest.raises(CorruptError, match=file.key) as caught:
            use_everything(store, record)
        assert caught.value.code == "GV-502"
    store.delete([file.key])
    with pytest.raises(CorruptError, match=file.key) as caught:
        use_everything(store, record)
    assert caught.value.code == "GV-501"
    assert caught.value.details["missing"]


def test_damage_is_found_in_the_file_that_is_used_and_by_verify(store):
    record = write(store, make_rows(40))
    key = record.vectors["f32"].key
    store.put(key, [b"\1" * record.vectors["f32"].length])
    reader = SegmentReader(store, record)
    reader.vectors("f16")
    reader.scalars(["id"])
    for call in (lambda: reader.vectors("f32"), lambda: reader.vectors("f32"), reader.verify):
        with pytest.raises(CorruptError, match="vec-f32"):
            call()


def test_a_file_of_another_format_is_an_error(store):
    record = write(store, make_rows(10))
    store.put(record.scalar.key, [b"not parquet"])
    other = FileRecord(key=record.scalar.key, length=11, crc32c=_crc(b"not parquet"))
    damaged = SegmentFiles.from_json({**record.to_json(), "scalar": other.to_json()})
    with pytest.raises(CorruptError, match="cannot be read") as caught:
        SegmentReader(store, damaged).primary_keys()
    assert caught.value.code == "GV-513"


def _crc(data):
    from gpuvec.storage.checksum import crc32c

    return crc32c([data])


def test_many_threads_load_each_file_once():
    inner = MemoryStore()
    record = write(inner, make_rows(2000))
    store = FaultStore(inner)
    reader = SegmentReader(store, record)
    found = []

    def read():
        found.append(tuple(reader.vectors(name) for name in record.vectors))
        assert reader.scalars(["id"]).num_rows == 2000

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(a is b for columns in found for a, b in zip(columns, found[0], strict=True))
    gets = Counter(key for name, key in store.operations if name == "get")
    assert gets == Counter(record.keys)


def test_deleted_rows_come_back_and_are_checked(store):
    rows, timestamps = np.array([5, 900, 7], np.uint32), np.array([10, 1 << 60, 30])
    files, record = write_deletes(PREFIX, SEGMENT, "01z", rows, timestamps)
    for key, parts in files:
        store.put(key, parts)
    record = FileRecord.from_json(json.loads(json.dumps(record.to_json())))
    found = read_deletes(store, record)
    assert same_bytes(found[0], rows)
    assert same_bytes(found[1], timestamps)
    store.put(record.key, [b"\0" * record.length])
    with pytest.raises(CorruptError, match="dv/01a/01z"):
        read_deletes(store, record)


def test_no_deleted_rows_can_be_written(store):
    files, record = write_deletes(PREFIX, SEGMENT, "01z", np.zeros(0, np.uint32), np.zeros(0, int))
    store.put(*files[0])
    assert [len(found) for found in read_deletes(store, record)] == [0, 0]
