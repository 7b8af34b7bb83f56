"""Files of a store behind a network: what is fetched, what is held, and that all is verified."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from gpuvec import schema as gv
from gpuvec.errors import CorruptError, DeviceMemoryError
from gpuvec.rows import DenseVectors, Rows, SparseVectors
from gpuvec.storage.blocks import block_size, sum_blocks
from gpuvec.storage.cache import DirectoryCache
from gpuvec.storage.checksum import crc32c
from gpuvec.storage.mapping import memory_of
from gpuvec.storage.memory import MemoryStore
from gpuvec.storage.read_ahead import Neighbours
from gpuvec.storage.records import FileRecord, SegmentFiles
from gpuvec.storage.remote_files import RemoteFiles
from gpuvec.storage.resident import Resident
from gpuvec.storage.segment_files import SegmentReader, write_segment

ROWS, WIDTH = 20_000, 96
SCHEMA = gv.Schema(
    {
        "id": gv.Int64(),
        "n": gv.Int64(),
        "text": gv.String(),
        "v": gv.Vector(WIDTH),
        "w": gv.Vector(8, nullable=True),
        "s": gv.SparseVector(nullable=True),
    },
    primary_key="id",
)


class Bucket(MemoryStore):
    """Objects behind a network: every read is counted, in requests and in bytes."""

    identity = "bucket"
    files: RemoteFiles | None = None

    def __init__(self):
        super().__init__(appendable=False)
        self.asked = Counter()
        self.bytes = 0

    def fetch(self, key, length, write):
        data = super().get(key)
        self.asked[key] += 1
        self.bytes += len(data)
        if len(data) != length:
            from gpuvec.errors import object_too_short

            raise object_too_short(key, wanted=length, got=len(data))
        write(0, data)

    def get_range(self, key, start, length):
        self.asked[key] += 1
        self.bytes += length
        return super().get_range(key, start, length)

    def get(self, key):
        raise AssertionError(f"{key} was read around the caches")

    def forget(self):
        self.asked.clear()
        self.bytes = 0

    def kinds(self):
        return {key.rpartition("/")[2] for key in self.asked}


def make_rows(n=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    table = pa.table(
        {
            "id": np.arange(n),
            "n": rng.integers(0, 100, n),
            "text": [rng.bytes(100).hex() for _ in range(n)],
        },
        schema=SCHEMA.arrow_schema(),
    )
    lengths = rng.integers(0, 3, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    entries = rng.integers(0, 1000, offsets[-1], dtype=np.uint32)
    words = SparseVectors(offsets, entries, np.ones(offsets[-1], np.float32), lengths > 0)
    vectors = {
        "v": DenseVectors(rng.random((n, WIDTH), dtype=np.float32)),
        "w": DenseVectors(rng.random((n, 8), dtype=np.float32), rng.random(n) > 0.5),
        "s": words,
    }
    return Rows(table, vectors)


@pytest.fixture(scope="module")
def rows():
    return make_rows()


@pytest.fixture
def bucket():
    return Bucket()


def write(bucket, rows, segment="01a"):
    files, record = write_segment("collections/c-1", segment, SCHEMA, rows, np.arange(len(rows)))
    for key, parts in files:
        bucket.put(key, parts)
    return SegmentFiles.from_json(record.to_json())


def connected(bucket, cache=None, memory=256 << 20):
    """Return the bucket as another process sees it: with nothing in memory."""
    bucket.forget()
    bucket.files = RemoteFiles(bucket, cache, Resident(memory, memory))
    return bucket


@pytest.fixture(params=["disk", "memory"])
def place(request, bucket, tmp_path):
    """Return `place()`, a bucket with a cold cache of a kind."""
    on_disk = request.param == "disk"
    return lambda: connected(bucket, DirectoryCache(tmp_path, 1 << 30) if on_disk else None)


def test_all_comes_back_and_is_fetched_once(place, bucket, rows):
    record = write(bucket, rows)
    reader = SegmentReader(place(), record)
    for _ in range(2):
        assert reader.scalars(["text", "id"]).equals(rows.table.select(["text", "id"]))
        assert np.array_equal(reader.vectors("v").values, rows.vectors["v"].values)
        found, wanted = reader.vectors("w").loaded(), rows.vectors["w"]
        assert np.array_equal(found.valid, wanted.valid)
        assert np.array_equal(found.values[wanted.valid], wanted.values[wanted.valid])
        assert np.array_equal(reader.vectors("s").indices, rows.vectors["s"].indices)
    assert bucket.asked.pop(record.scalar.key) == 2  # its footer first
    assert set(bucket.asked.values()) == {1}
    assert bucket.kinds() == {"vec-v.arrow", "vec-w.arrow", "vec-s.arrow"}


def test_nothing_is_fetched_before_it_is_used(place, bucket, rows):
    record = write(bucket, rows)
    column = SegmentReader(place(), record).vectors("v")
    assert (len(column), column.nbytes) == (ROWS, ROWS * WIDTH * 4)
    assert not bucket.asked
    assert column.values.shape == (ROWS, WIDTH)
    assert bucket.kinds() == {"vec-v.arrow"}


def test_few_rows_are_fetched_without_the_others(place, bucket, rows):
    record = write(bucket, rows)
    reader = SegmentReader(place(), record)
    wanted = np.array([17_000, 5, 5, 19_999, 170])
    found = reader.vectors("v").take(wanted)
    assert np.array_equal(found.values, rows.vectors["v"].values[wanted])
    assert found.valid is None
    assert bucket.bytes <= 5 * block_size(record.vectors["v"].length)
    before = bucket.bytes
    assert np.array_equal(reader.vectors("v").take(wanted).values, found.values)
    assert np.array_equal(reader.vectors("v").slice(2, 7).values, rows.vectors["v"].values[2:7])
    assert bucket.bytes == before


def test_rows_that_straddle_blocks_come_back_whole(place, bucket, rows):
    record = write(bucket, rows)
    size = block_size(record.vectors["v"].length)
    ends = np.arange(1, 20) * size
    wanted = (ends - 4096) // (WIDTH * 4)
    found = SegmentReader(place(), record).vectors("v").take(wanted)
    assert np.array_equal(found.values, rows.vectors["v"].values[wanted])


def test_many_small_reads_of_a_file_end_in_one_of_the_whole(bucket, rows, tmp_path):
    record = write(bucket, rows)
    reader = SegmentReader(connected(bucket, DirectoryCache(tmp_path, 1 << 30)), record)
    for start in range(0, ROWS, 100):
        wanted = np.arange(start, start + 3)
        found = reader.vectors("v").take(wanted)
        assert np.array_equal(found.values, rows.vectors["v"].values[wanted])
    length = record.vectors["v"].length
    assert length < bucket.bytes <= length * 1.26


def test_a_small_column_is_fetched_without_the_large_ones(place, bucket, rows):
    record = write(bucket, rows)
    reader = SegmentReader(place(), record)
    assert reader.scalars(["n"]).equals(rows.table.select(["n"]))
    assert reader.timestamps().tolist() == list(range(ROWS))
    assert bucket.bytes < record.scalar.length / 3
    assert reader.scalars([]).num_rows == ROWS
    assert reader.scalars(["text", "n"]).equals(rows.table.select(["text", "n"]))
    assert reader.scalar_names[:3] == ["id", "n", "text"]


def test_a_warm_disk_needs_no_request(bucket, rows, tmp_path):
    record = write(bucket, rows)
    for wanted in ({"scalar.parquet", "vec-v.arrow"}, set()):
        reader = SegmentReader(connected(bucket, DirectoryCache(tmp_path, 1 << 30)), record)
        assert reader.scalars(["text"]).num_rows == ROWS
        values = reader.vectors("v").values
        assert np.array_equal(values, rows.vectors["v"].values)
        assert memory_of(values) is not None
        assert bucket.kinds() == wanted


@pytest.mark.parametrize("which", ["v", "scalar"])
@pytest.mark.parametrize("use", ["whole", "part"])
def test_a_changed_byte_is_never_used(place, bucket, rows, which, use):
    record = write(bucket, rows)
    file = record.scalar if which == "scalar" else record.vectors[which]
    rng = np.random.default_rng(0)
    whole = MemoryStore.get(bucket, file.key)
    for at in [len(whole) - 3, *rng.integers(0, len(whole), 12)]:
        broken = bytearray(whole)
        broken[at] ^= 1 << int(rng.integers(8))
        bucket.put(file.key, [broken])
        reader = SegmentReader(place(), record)
        seen = outcome(lambda reader=reader: read_some(reader, which, use, rows))
        assert seen == f"GV-503 {file.key}" or (seen == "right" and use == "part")


def outcome(read):
    """Return "right", "wrong", or the code and file of the error that came."""
    try:
        return "right" if read() else "wrong"
    except CorruptError as error:
        return f"{error.code} {error.details['path'].partition(',')[0]}"


def read_some(reader, which, use, rows):
    """Return whether what is read is as it was written."""
    if which == "scalar":
        name = "text" if use == "whole" else "n"
        return reader.scalars([name]).equals(rows.table.select([name]))
    column, wanted = reader.vectors(which), rows.vectors[which].values
    if use == "whole":
        return np.array_equal(column.values, wanted)
    some = np.arange(0, ROWS, 50)
    return np.array_equal(column.take(some).values, wanted[some])


def test_missing_and_cut_files_are_errors_that_name_them(place, bucket, rows):
    record = write(bucket, rows)
    file = record.vectors["v"]
    whole = MemoryStore.get(bucket, file.key)
    for code, damage in (
        ("GV-502", lambda: bucket.put(file.key, [whole[:-1]])),
        ("GV-501", lambda: bucket.delete([file.key])),
    ):
        damage()
        reader = SegmentReader(place(), record)
        with pytest.raises(CorruptError, match=file.key) as caught:
            _ = reader.vectors("v").values
        assert caught.value.code == code
    with pytest.raises(CorruptError) as caught:
        reader.vectors("v").take(np.array([1]))
    assert caught.value.details["missing"]


def test_files_without_checksums_of_blocks_are_read_whole(place, bucket, rows):
    record = write(bucket, rows)
    known = record.to_json()
    for file in (known["scalar"], *known["vectors"].values()):
        file.pop("blocks", None)
    reader = SegmentReader(place(), SegmentFiles.from_json(known))
    found = reader.vectors("v").take(np.array([3]))
    assert np.array_equal(found.values, rows.vectors["v"].values[[3]])
    assert reader.scalars(["n"]).equals(rows.table.select(["n"]))
    assert bucket.bytes == record.vectors["v"].length + record.scalar.length


def test_memory_stays_within_its_budget_and_what_is_used_is_not_fetched_again(bucket, rows):
    small = rows.slice(0, 3000)
    records = [write(bucket, small, f"01{n:02d}") for n in range(20)]
    size = records[0].vectors["v"].length
    connected(bucket, memory=3 * size)
    readers = [SegmentReader(bucket, record) for record in records]
    for _ in range(2):
        for reader in readers:
            values = reader.vectors("v").values
            assert np.array_equal(values, small.vectors["v"].values)
            assert reader.vectors("v").values is not None
    assert bucket.files.resident.peak_bytes <= 4 * size  # the array in use beside those kept
    assert set(bucket.asked.values()) == {2}
    assert readers[0].vectors("v").resident_bytes == small.vectors["v"].nbytes


def test_a_file_too_large_for_disk_and_memory_is_refused_with_what_to_do(bucket, rows):
    record = write(bucket, rows)
    connected(bucket, memory=1 << 20)
    reader = SegmentReader(bucket, record)
    with pytest.raises(DeviceMemoryError, match=r"vec-v\.arrow needs .* bytes") as caught:
        _ = reader.vectors("v").values
    assert caught.value.code == "GV-561"
    assert "cache.size_bytes" in caught.value.hint
    assert not bucket.asked
    for start in range(0, ROWS, 1000):  # rows can be had all the same
        wanted = np.arange(start, start + 2)
        found = reader.vectors("v").take(wanted)
        assert np.array_equal(found.values, rows.vectors["v"].values[wanted])
    assert bucket.files.resident.held_bytes <= 1 << 20


def test_segments_read_in_order_are_fetched_several_at_once(bucket, rows, tmp_path):
    small = rows.slice(0, 300)
    records = [write(bucket, small, f"01{n:02d}") for n in range(40)]
    for order in (range(40), range(39, -1, -1)):
        connected(bucket, DirectoryCache(tmp_path / str(order.step), 1 << 30))
        neighbours = Neighbours(bucket.files)
        neighbours.put(records)
        readers = [SegmentReader(bucket, record, neighbours) for record in records]
        fetched = []
        for number in order:
            assert np.array_equal(readers[number].vectors("v").values, small.vectors["v"].values)
            fetched.append(len(bucket.asked))
        assert fetched[:2] == [1, 17]
        assert fetched[17:19] == [33, 33]
        assert set(bucket.asked.values()) == {1}


def test_segments_read_here_and_there_are_fetched_alone(bucket, rows, tmp_path):
    small = rows.slice(0, 300)
    records = [write(bucket, small, f"01{n:02d}") for n in range(40)]
    connected(bucket, DirectoryCache(tmp_path, 1 << 30))
    neighbours = Neighbours(bucket.files)
    neighbours.put(records)
    for count, number in enumerate((3, 9, 5, 30, 1), 1):
        _ = SegmentReader(bucket, records[number], neighbours).vectors("v").values
        assert len(bucket.asked) == count


@pytest.mark.parametrize("length", [0, 1, 65_536, 65_537, 131_072, 3_000_001])
def test_checksums_of_blocks_and_of_the_whole_come_from_one_read(length):
    data = np.random.default_rng(length).bytes(length)
    cuts = [0, length // 3, length // 3, length // 2, length]
    parts = [data[a:b] for a, b in pairwise(cuts)]
    checksum, blocks = sum_blocks(parts, length)
    assert checksum == crc32c([data])
    assert (blocks is None) == (length <= 65_536)
    if blocks is not None:
        size = blocks.size_bytes
        wanted = [crc32c([data[at : at + size]]) for at in range(0, length, size)]
        assert blocks.sums.tolist() == wanted
        record = FileRecord(key="k", length=length, crc32c=checksum, blocks=blocks)
        assert FileRecord.from_json(record.to_json()) == record


def test_a_file_has_a_thousand_blocks_at_most():
    for length in (1, 1 << 26, (1 << 26) + 1, 10**9, 10**12):
        assert block_size(length) * 1024 >= length
        assert block_size(length) == 65_536 or block_size(length) * 512 < length
