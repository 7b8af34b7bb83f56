"""docs/format.md is true: its reader finds the rows, its tables name what the code writes."""

import json
import re
import types
from dataclasses import fields
from pathlib import Path

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest

import gpuvec as gv
from gpuvec.clock import SystemClock
from gpuvec.meta import changes
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes import Change, SegmentRecord
from gpuvec.segment.routing import channel_of
from gpuvec.storage import keys
from gpuvec.storage.checksum import crc32c
from gpuvec.storage.local import LocalStore
from gpuvec.storage.open import open_store
from gpuvec.wal.frame import FORMAT, FrameKind, encode_frame

PAGE = Path(__file__).parents[2] / "docs" / "format.md"
TEXT = PAGE.read_text(encoding="utf-8")
NOW = SystemClock().now_ms


def code_below(heading):
    """Return the module that the Python block below a heading of the page makes."""
    block = re.search(r"```python\n(.*?)```", TEXT.partition(f"## {heading}\n")[2], re.DOTALL)
    module = types.ModuleType(heading)
    exec(compile(block[1], f"{PAGE}: {heading}", "exec"), module.__dict__)
    return module


reader = code_below("A reader")
others = code_below("DuckDB and polars")
routing = code_below("The channel of a key")

SCHEMA = gv.Schema(
    {
        "id": gv.Int64(),
        "flag": gv.Bool(nullable=True),
        "small": gv.Int8(default=7),
        "price": gv.Float64(nullable=True),
        "Größe": gv.String(nullable=True),
        "at": gv.Timestamp(nullable=True),
        "about": gv.JSON(nullable=True),
        "tags": gv.List(gv.String(), nullable=True),
        "dense": gv.Vector(4, metric="l2", nullable=True),
        "brief": gv.Vector(3, dtype="bfloat16"),
        "bits": gv.BinaryVector(16),
        "few": gv.SparseVector(nullable=True),
    },
    "id",
)


def rows(ids):
    number = np.random.default_rng(len(ids) + ids[0])
    listed = [
        {
            "id": n,
            "flag": None if n % 5 == 0 else n % 2 == 0,
            "small": n % 100,
            "price": None if n % 7 == 0 else n / 3,
            "Größe": None if n % 4 == 0 else f"größe {n}",
            "at": None if n % 6 == 0 else 1_700_000_000_000_000 + n,
            "about": None if n % 3 == 0 else json.dumps({"n": [n, None, "ä"]}),
            "tags": None if n % 8 == 0 else [f"t{n}"] * (n % 3),
        }
        for n in ids
    ]
    types_ = {name: kind.arrow_type() for name, kind in SCHEMA.scalar_fields.items()}
    table = pa.Table.from_pylist(listed, pa.schema(types_.items()))
    dense = number.standard_normal((len(ids), 4)).astype(np.float32)
    return {
        **{name: table[name] for name in table.column_names},
        "dense": [None if n % 9 == 0 else v.tolist() for n, v in zip(ids, dense, strict=True)],
        "brief": number.standard_normal((len(ids), 3)).astype(np.float32),
        "bits": number.integers(0, 2, (len(ids), 16)).astype(bool),
        "few": [None if n % 10 == 0 else {n: 0.5, n + 3: 1.25} for n in ids],
    }


def some(ids, **more):
    """Return rows of a table with id and vector."""
    ids = np.asarray(ids)
    return {"id": ids, "v": np.repeat(ids[:, None], 2, axis=1).astype(np.float32), **more}


PLAIN = gv.Schema({"id": gv.Int64(), "v": gv.Vector(2, metric="l2")}, "id", dynamic=True)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """Collections of every field type, with deletes, upserts and a tail that is in no segment."""
    path = tmp_path_factory.mktemp("format") / "db"
    with gv.connect(path) as db:
        db.create_collection("old name", SCHEMA)
        db.rename("old name", "all")
        items = db["all"]
        items.insert(rows(range(40)))
        items.flush()
        items.delete(ids=[1, 3])
        items.flush()
        items.insert(rows(range(100, 120)))
        items.upsert(rows([5, 6, 110]))
        items.delete(ids=[7, 101, 38])
        fill_plain(db)
        db.create_collection("gone", PLAIN)
        db.drop_collection("gone")
    return path


def fill_plain(db):
    """Schema changes, partitions, truncation and dynamic columns."""
    items = db.create_collection("plain", PLAIN)
    items.insert(some(range(5)))
    items.flush()
    items.truncate()
    items.insert(some(range(10, 20)), partition="a")
    items.insert(some(range(20, 30)), partition="b")
    items.flush()
    items.drop_partition("a")
    items.add_field("n", gv.Int32(), default=3)
    items.insert(some(range(30, 40), n=range(10), word=["w"] * 10))
    items.flush()
    items.drop_field("n")
    items.add_field("n", gv.String(), default="new")
    items.insert(some(range(40, 45)))
    items.insert(some(range(45, 50)), partition="a")


def found_by_gpuvec(path, name):
    with gv.connect(path) as db:
        return {row["id"]: row for row in db[name].to_arrow().to_pylist()}


def alike(read, wanted):
    if isinstance(wanted, dict) or read is None or wanted is None:
        return read == wanted
    if isinstance(wanted, list) and not isinstance(read, list | np.ndarray):
        return read == dict(wanted)  # a sparse vector, as an Arrow map
    if isinstance(read, np.ndarray):
        values = read.astype(np.float32) if read.dtype == ml_dtypes.bfloat16 else read
        return values.tolist() == wanted
    return read == wanted


@pytest.mark.parametrize("name", ["all", "plain"])
def test_the_reader_of_the_page_finds_the_same_rows(database, name):
    wanted = found_by_gpuvec(database, name)
    read = reader.read_collection(database, name, NOW())
    assert read.keys() == wanted.keys()
    assert len(wanted) > 15
    for key, row in wanted.items():
        for field in read[key]:
            assert alike(read[key][field], row[field]), (key, field, read[key][field], row[field])


def test_a_checkpoint_says_the_same(database, tmp_path):
    import shutil

    from gpuvec.meta.manifest import ManifestLog
    from gpuvec.storage.object_store import run

    copy = tmp_path / "db"
    shutil.copytree(database, copy)
    store, clock = LocalStore(copy), SystemClock()
    for folder in store.folders(keys.COLLECTIONS):
        log = ManifestLog(keys.collection(folder), CollectionState())
        run(log.collect(run(log.read(), store, clock), keep=1), store, clock)
    for name in ("all", "plain"):
        read = reader.read_collection(copy, name, NOW())
        assert read.keys() == found_by_gpuvec(database, name).keys()


def test_rows_older_than_the_time_to_live_are_gone(tmp_path):
    with gv.connect(tmp_path / "db") as db:
        items = db.create_collection("plain", PLAIN)
        items.insert(some(range(5)))
        items.set_ttl("1h")
    assert reader.read_collection(tmp_path / "db", "plain", NOW()).keys() == set(range(5))
    assert not reader.read_collection(tmp_path / "db", "plain", NOW() + 3_700_000)


@pytest.mark.parametrize("appendable", [True, False], ids=["folder", "bucket"])
def test_writes_that_span_channels_are_read_whole(tmp_path, appendable, request):
    place, options = str(tmp_path / "db"), None
    if not appendable:
        server = request.getfixturevalue("s3")
        place, options = server.new_url(), server.options
    with gv.connect(place, storage_options=options) as db:
        items = db.create_collection("plain", PLAIN, channels=3)
        items.insert(some(range(30)))
        items.flush()
        items.delete(ids=[1, 2, 3])
        items.flush()
        items.insert(some(range(100, 130)))
        items.upsert(some([5, 6, 7, 110, 200]))
        items.delete(ids=[8, 9, 10, 120])
        wanted = {row["id"] for row in items.select("id").to_arrow().to_pylist()}
    if not appendable:
        store = open_store(place, options)
        for key in store.list(""):
            (tmp_path / "db" / key).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "db" / key).write_bytes(store.get(key))
    assert reader.read_collection(tmp_path / "db", "plain", NOW()).keys() == wanted


def test_a_bucket_reads_as_a_folder_does(tmp_path, s3):
    url = s3.new_url()
    with gv.connect(url, storage_options=s3.options) as db:
        items = db.create_collection("all", SCHEMA)
        items.insert(rows(range(20)))
        items.flush()
        items.upsert(rows([5, 30]))
        items.delete(ids=[2, 30])
        wanted = {row["id"] for row in items.select("id").to_arrow().to_pylist()}
    store = open_store(url, s3.options)
    for key in store.list(""):
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(store.get(key))
    assert reader.read_collection(tmp_path, "all", NOW()).keys() == wanted


def test_duckdb_and_polars_read_a_segment(database):
    folder = reader.collection_folder(database, "all")
    state = reader.state_of(folder, reader.apply_to_collection)
    (segment,) = [found for found in state["segments"].values() if found["deletes"]]
    scalars = str(database / segment["files"]["scalar"]["key"])
    vectors = str(database / segment["files"]["vectors"]["brief"]["key"])
    deletes = str(database / segment["deletes"]["key"])
    wanted = sorted(set(range(40)) - {1, 3})
    table = others.with_duckdb(scalars, deletes)
    table = table if isinstance(table, pa.Table) else table.read_all()
    assert table["id"].to_pylist() == wanted
    frame = others.with_polars(scalars, vectors, deletes)
    assert frame["id"].to_list() == wanted
    truth = rows(range(40))["brief"].astype(ml_dtypes.bfloat16).view(np.uint16)[wanted]
    assert np.array_equal(np.stack(frame["brief"].to_list()), truth)
    assert pa.ipc.open_file(vectors).read_all()["brief"].type == pa.list_(
        pa.field("item", pa.uint16(), nullable=False), 3
    )


def test_the_checksums_of_the_page_are_those_of_the_files(database):
    entry = next(database.glob("collections/*/manifest/*.json")).read_bytes()
    text, _, checksum = entry.rpartition(b',"crc32c":"')
    assert checksum == b'%08x"}\n' % crc32c([text])
    state = reader.state_of(reader.collection_folder(database, "all"), reader.apply_to_collection)
    for segment in state["segments"].values():
        listed = [segment["files"]["scalar"], *segment["files"]["vectors"].values()]
        for file in [*listed, *filter(None, [segment["deletes"]])]:
            data = (database / file["key"]).read_bytes()
            assert (len(data), crc32c([data])) == (file["length"], file["crc32c"])
        for file in segment["files"]["vectors"].values():
            first = min(array["offset"] for array in file["arrays"].values())
            assert first % 4096 == 0
    frame = encode_frame(FrameKind.GROUP, [b"body"], epoch=1, lsn=2, nonce="0f" * 16)
    unpacked = reader.HEADER.unpack_from(frame)
    assert unpacked[-2:] == (crc32c([b"body"]), crc32c([frame[:68]]))
    assert len(frame) % 16 == 0


def test_the_channel_of_a_key_is_that_of_the_page():
    keys_ = [
        0,
        1,
        -1,
        2**63 - 1,
        -(2**63),
        *np.random.default_rng(5).integers(-1 << 62, 1 << 62, 50),
    ]
    numbers = pa.array([int(key) for key in keys_], pa.int64())
    texts = pa.array(["", "a", "größe", "x" * 300, *(f"key-{n}" for n in range(50))])
    for listed in (numbers, texts):
        for count in (1, 3, 64):
            wanted = [routing.channel_of(key, count) for key in listed.to_pylist()]
            assert channel_of(listed, count).tolist() == wanted


# The tables name all there is


def change_kinds():
    ours = {n: kind for n, kind in changes._KINDS.items() if ".testing." not in kind.__module__}
    return sorted(ours.items())


@pytest.mark.parametrize(("name", "kind"), change_kinds())
def test_every_change_is_in_a_table_with_its_fields(name, kind: type[Change]):
    (row,) = [line for line in TEXT.splitlines() if line.startswith("|") and f"`{name}`" in line]
    for item in fields(kind):
        assert f"`{item.name}`" in row, f"{name}.{item.name} is not in docs/format.md"


def test_every_field_of_a_segment_and_of_a_state_is_named():
    about = TEXT.partition("### The state of a collection\n")[2].partition("## Segments")[0]
    for item in fields(SegmentRecord):
        assert f"`{item.name}`" in about, f"segment.{item.name}"
    for name in CollectionState().to_json():
        assert f"`{name}`" in about, name


def test_frame_kinds_and_format_numbers_are_those_of_the_code():
    for kind in FrameKind:
        assert f"{kind.value} `{kind.name}`" in TEXT
    assert FORMAT == 2
    for number in range(1, FORMAT + 1):
        assert f"{number}" in TEXT.partition("| log frame |")[2].splitlines()[0]


def test_every_file_of_a_database_has_its_line_in_the_tree(database):
    tree = TEXT.partition("## Keys\n")[2].partition("```text\n")[2].partition("```")[0]
    top = {line.split()[0].rstrip("/").split("/")[0] for line in tree.splitlines() if line.strip()}
    for path in (p for p in database.rglob("*") if p.is_file()):
        parts = path.relative_to(database).parts
        known = parts[2] if parts[0] == "collections" else parts[0]
        assert known in top, path


# Newer formats are refused, by name, whatever is asked


def newer_entry(path):
    """Raise the format of the newest entry of a collection."""
    newest = max(path.glob("collections/*/manifest/*.json"))
    data = newest.read_bytes().rpartition(b',"crc32c":"')[0].replace(b'"format":1', b'"format":9')
    newest.write_bytes(b'%b,"crc32c":"%08x"}\n' % (data, crc32c([data])))
    return "GV-522"


def unknown_change(path):
    newest = max(path.glob("collections/*/manifest/*.json"))
    data = newest.read_bytes().rpartition(b',"crc32c":"')[0]
    data = re.sub(rb'"change":"\w+"', b'"change":"Levitate"', data, count=1)
    newest.write_bytes(b'%b,"crc32c":"%08x"}\n' % (data, crc32c([data])))
    return "GV-522"


def unknown_field(path):
    newest = max(path.glob("collections/*/manifest/*.json"))
    data = newest.read_bytes().rpartition(b',"crc32c":"')[0]
    data = data.replace(b'{"change":', b'{"colour":"blue","change":', 1)
    newest.write_bytes(b'%b,"crc32c":"%08x"}\n' % (data, crc32c([data])))
    return "GV-522"


def newer_catalog(path):
    newest = max(path.glob("catalog/manifest/*.json"))
    data = newest.read_bytes().rpartition(b',"crc32c":"')[0].replace(b'"format":1', b'"format":9')
    newest.write_bytes(b'%b,"crc32c":"%08x"}\n' % (data, crc32c([data])))
    return "GV-522"


def newer_checkpoint(path):
    (folder,) = path.glob("collections/*")
    entry = json.loads(max(folder.glob("manifest/*.json")).read_bytes())
    state = {"format": 9, "id": entry["id"], "nonce": entry["nonce"], "state": {}}
    return checkpoint(folder, {**state, "generation": 1, "time_ms": 0})


def checkpoint_with_unknown_fields(path):
    (folder,) = path.glob("collections/*")
    entry = json.loads(max(folder.glob("manifest/*.json")).read_bytes())
    state = {**CollectionState().to_json(), "colour": "blue"}
    made = {"format": 1, "id": entry["id"], "nonce": entry["nonce"], "state": state}
    return checkpoint(folder, {**made, "generation": 1, "time_ms": 0})


def checkpoint(folder, content):
    data = json.dumps(content, separators=(",", ":")).encode()[:-1]
    (folder / "checkpoint").mkdir()
    file = folder / "checkpoint" / f"{content['id']:020}.json"
    file.write_bytes(b'%b,"crc32c":"%08x"}\n' % (data, crc32c([data])))
    return "GV-522"


def newer_frame(path, *, at=4, value=9):
    """Raise the format of the first group of the log."""
    (newest,) = [log for log in path.rglob("*.log") if b"gvWL" in log.read_bytes()[72:]]
    data = bytearray(newest.read_bytes())
    start = data.find(b"gvWL", 72)
    data[start + at] = value
    data[start + 68 : start + 72] = crc32c([bytes(data[start : start + 68])]).to_bytes(4, "little")
    newest.write_bytes(data)
    return "GV-522"


def unknown_frame(path):
    return newer_frame(path, at=5, value=77)


def newer_segment(path):
    for newest in path.glob("collections/*/manifest/*.json"):
        data = newest.read_bytes().rpartition(b',"crc32c":"')[0]
        data = data.replace(b'"files":{"segment_id"', b'"files":{"format":9,"segment_id"')
        newest.write_bytes(b'%b,"crc32c":"%08x"}\n' % (data, crc32c([data])))
    return "GV-522"


def newer_database(path):
    (path / "gpuvec.json").write_text('{"format": 9, "made_by": "gpuvec"}')
    return "GV-606"


NEWER = [
    newer_entry, unknown_change, unknown_field, newer_catalog, newer_checkpoint,
    checkpoint_with_unknown_fields, newer_frame, unknown_frame, newer_segment, newer_database,
]  # fmt: skip


@pytest.mark.parametrize("change", NEWER)
def test_what_a_newer_gpuvec_wrote_is_refused_by_name(tmp_path, change):
    path = tmp_path / "db"
    with gv.connect(path) as db:
        items = db.create_collection("plain", PLAIN)
        items.insert(some(range(5)))
        items.flush()
        items.insert(some(range(5, 9)))
    code = change(path)

    def read():
        with gv.connect(path) as db:
            db["plain"].to_arrow()

    def write():
        with gv.connect(path) as db:
            db["plain"].insert(some([50]))

    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    for use in (read, write):
        with pytest.raises(gv.UnsupportedError) as refused:
            use()
        assert refused.value.code == code
        assert "newer" in str(refused.value) or "up to" in str(refused.value)
    after = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    kept = [file for file in before if "/wal/" not in str(file) and "catalog" not in str(file)]
    assert [file for file in kept if before[file] != after[file]] == []
