"""Every broken file is found, named and explained, and the engine's own reads agree."""

import json
import shutil
import subprocess
import sys
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpuvec as gv
from gpuvec.clock import SystemClock
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.manifest import ManifestLog
from gpuvec.storage import keys
from gpuvec.storage.local import LocalStore
from gpuvec.storage.object_store import run
from gpuvec.storage.open import open_store
from gpuvec.verify.report import Level
from gpuvec.verify.verify import verify

WANTED = {*range(2, 30), *range(100, 110), 200}
SILENT = {  # nobody can miss what may be absent, or what says nothing
    "gpuvec.lock": "flip cut remove",
    "catalog/manifest/hint": "remove",
    "manifest/hint": "remove",
    "log hint": "remove",
    "fence": "remove",
}


def rows(ids):
    ids = np.asarray(ids)
    return {
        "id": ids,
        "word": [f"w{n}" for n in ids],
        "v": np.repeat(ids[:, None], 8, axis=1).astype(np.float32),
    }


SCHEMA = gv.Schema({"id": gv.Int64(), "word": gv.String(), "v": gv.Vector(8, metric="l2")}, "id")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("verify") / "db"
    with gv.connect(path) as db:
        items = db.create_collection("items", SCHEMA)
        items.insert(rows(range(30)))
        items.flush()
        items.create_index("id", gv.index.Sorted())
        items.delete(ids=[0, 1])
        items.flush()
        items.insert(rows(range(100, 110)))
        items.insert(rows([200]))
    return path


def files_of(path):
    found = (p.relative_to(path) for p in path.rglob("*") if p.is_file())
    return sorted(str(name) for name in found)


def read_all(path):
    with gv.connect(path) as db:
        items = db["items"]
        table = items.select("id", "word", "v").to_arrow()
        ids = table["id"].to_pylist()
        assert table["word"].to_pylist() == [f"w{n}" for n in ids]
        assert table["v"].to_pylist() == [[n] * 8 for n in ids]
        assert items.filter("id < 10").count() == 8
        return set(ids)


def is_loud(path):
    """Return whether the engine says that something is wrong; else its answer is right."""
    try:
        assert read_all(path) == WANTED
    except (gv.StorageError, gv.UnsupportedError) as error:
        if not error.code.startswith(("GV-5", "GV-6")):
            raise
        return True
    return False


def flip(path):
    data = bytearray(path.read_bytes())
    data[min(2 if path.name == "gpuvec.json" else len(data) // 2, len(data) - 1)] ^= 0x10
    path.write_bytes(data)


def cut(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def remove(path):
    path.unlink()


def is_silent(name, harm):
    folder, _, last = name.rpartition("/")
    if name in SILENT:
        return harm.__name__ in SILENT[name]
    if last == "hint":
        return harm.__name__ in SILENT["log hint" if "/wal/" in folder else "manifest/hint"]
    if last.endswith("-00000000000000000000.log"):
        return harm.__name__ in SILENT["fence"]
    return False


def test_a_whole_database_is_sound(original):
    report = verify(original)
    assert report.is_sound
    assert not report.findings
    assert (report.collections, report.rows, report.orphans) == (1, 30, 0)
    assert report.files >= len(files_of(original)) - 1  # all but the lock


@pytest.mark.parametrize("harm", [flip, cut, remove])
def test_every_broken_file_is_named_and_the_engine_agrees(original, tmp_path, harm):
    for number, name in enumerate(files_of(original)):
        copy = tmp_path / str(number)
        shutil.copytree(original, copy)
        if (copy / name).stat().st_size == 0:
            continue
        harm(copy / name)
        try:
            check_found(copy, name, is_silent(name, harm))
        except BaseException as error:
            error.add_note(f"{harm.__name__} {name}")
            raise


def check_found(copy, name, silent):
    report = verify(copy)
    found = {finding.key: finding for finding in report.findings}
    if silent:
        assert report.is_sound
        assert not is_loud(copy)
        return
    assert not report.is_sound
    assert set(found) == {name}, "another file is blamed"
    finding = found[name]
    assert kind_of(name) in finding.kind
    assert finding.code
    assert finding.problem
    assert finding.remedy
    if finding.level is Level.HARMLESS:
        assert finding.affected == "nothing"
        assert not is_loud(copy)
    elif finding.kind != "log fence":
        assert is_loud(copy)


def kind_of(name):
    return {
        "gpuvec.json": "format file",
        "catalog": "catalog",
        "manifest": "manifest",
        "wal": "log",
        "seg": "vectors" if name.endswith(".arrow") else "scalars",
        "dv": "deleted rows",
        "idx": 'index of "id"',
    }[name.split("/")[2] if name.startswith("collections/") else name.split("/")[0]]


def test_findings_tell_rows_and_the_first_version(original, tmp_path):
    copy = tmp_path / "db"
    shutil.copytree(original, copy)
    (vectors,) = copy.rglob("vec-v.arrow")
    flip(vectors)
    (finding,) = verify(copy).findings
    assert (finding.level, finding.code, finding.collection) == (Level.DAMAGE, "GV-503", "items")
    assert finding.rows == 30
    assert finding.since is not None
    assert '"v" of 30 rows' in finding.affected


def test_two_broken_files_are_both_named(original, tmp_path):
    copy = tmp_path / "db"
    shutil.copytree(original, copy)
    (scalars,), (deletes,) = copy.rglob("scalar.parquet"), copy.rglob("dv/*/*.arrow")
    remove(scalars)
    cut(deletes)
    codes = {finding.kind: finding.code for finding in verify(copy).findings}
    assert codes == {"scalars": "GV-501", "deleted rows": "GV-502"}


# Manifests with checkpoints, some of their entries collected


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """A database with two checkpoints; entries up to a mark are gone."""
    path = tmp_path_factory.mktemp("verify") / "db"
    with gv.connect(path) as db:
        items = db.create_collection("items", SCHEMA)
        items.insert(rows(range(30)))
        items.flush()
    store, clock = LocalStore(path), SystemClock()
    (folder,) = store.folders(keys.COLLECTIONS)
    log = ManifestLog(keys.collection(folder), CollectionState())
    run(log.collect(run(log.read(), store, clock), keep=1), store, clock)
    with gv.connect(path) as db:
        items = db["items"]
        items.delete(ids=[0, 1])
        items.flush()
        items.add_field("n", gv.Int32(nullable=True))
        items.insert({**rows([*range(100, 110), 200]), "n": [1] * 11})
    run(log.checkpoint(run(log.read(), store, clock)), store, clock)
    return path


def test_a_collected_history_is_sound(collected):
    assert verify(collected).is_sound
    assert read_all(collected) == WANTED


@pytest.mark.parametrize("harm", [flip, cut])
def test_a_broken_newest_checkpoint_is_harmless_and_repaired(collected, tmp_path, harm):
    copy = tmp_path / "db"
    shutil.copytree(collected, copy)
    newest = max(copy.glob("collections/*/checkpoint/*"))
    harm(newest)
    (finding,) = verify(copy).findings
    assert finding.level is Level.HARMLESS
    assert finding.key == str(newest.relative_to(copy))
    assert not is_loud(copy)
    assert verify(copy, repair=True).is_sound
    assert not verify(copy).findings
    assert not is_loud(copy)


def test_with_all_checkpoints_broken_a_collected_history_is_lost_and_said_so(collected, tmp_path):
    copy = tmp_path / "db"
    shutil.copytree(collected, copy)
    for checkpoint in copy.glob("collections/*/checkpoint/*"):
        flip(checkpoint)
    report = verify(copy)
    assert not report.is_sound
    assert any(f.affected.startswith('all of collection "items"') for f in report.findings)
    assert is_loud(copy)


def test_a_checkpoint_that_is_not_what_its_entries_say_is_found(original, tmp_path):
    copy = tmp_path / "db"
    shutil.copytree(original, copy)
    store, clock = LocalStore(copy), SystemClock()
    (folder,) = store.folders(keys.COLLECTIONS)
    log = ManifestLog(keys.collection(folder), CollectionState())
    view = run(log.read(), store, clock)
    state = view.state.from_json({**view.state.to_json(), "ttl_s": 5.0})
    run(log.checkpoint(type(view)(entry_id=view.entry_id, nonce=view.nonce, state=state,
        generation=view.generation, time_ms=view.time_ms)), store, clock)  # fmt: skip
    (finding,) = verify(copy).findings
    assert "not what its entries say" in finding.problem


def test_a_collection_whose_folder_is_gone_is_an_error_and_a_finding(original, tmp_path):
    copy = tmp_path / "db"
    shutil.copytree(original, copy)
    (folder,) = copy.glob("collections/*")
    shutil.rmtree(folder)
    for use in (lambda items: items.to_arrow(), lambda items: items.insert(rows([500]))):
        with gv.connect(copy) as db, pytest.raises(gv.CorruptError, match="GV-520"):
            use(db["items"])
    (finding,) = verify(copy).findings
    assert (finding.level, finding.code, finding.collection) == (Level.DAMAGE, "GV-520", "items")


# Repair


@pytest.mark.parametrize("harm", [flip, cut])
@pytest.mark.parametrize("pattern", ["*/hint", "collections/*/manifest/hint", "**/wal/*/hint"])
def test_repair_writes_hints_anew(original, tmp_path, harm, pattern):
    copy = tmp_path / "db"
    shutil.copytree(original, copy)
    before = {hint: hint.read_bytes() for hint in copy.glob(pattern)}
    for hint in before:
        harm(hint)
    report = verify(copy, repair=True)
    assert report.is_sound
    assert all(finding.repaired for finding in report.findings)
    assert {hint: hint.read_bytes() for hint in before} == before
    assert not verify(copy).findings
    assert read_all(copy) == WANTED


@pytest.mark.parametrize("harm", [flip, cut, remove])
def test_repair_writes_the_format_file_anew(original, tmp_path, harm):
    copy = tmp_path / "db"
    shutil.copytree(original, copy)
    harm(copy / "gpuvec.json")
    assert is_loud(copy)
    assert verify(copy, repair=True).is_sound
    assert read_all(copy) == WANTED


@pytest.mark.parametrize("harm", [flip, cut, remove])
def test_repair_builds_broken_indexes_anew(original, tmp_path, harm):
    copy = tmp_path / "db"
    shutil.copytree(original, copy)
    (index,) = [path for path in copy.rglob("idx/*/*/*") if path.is_file()]
    harm(index)
    report = verify(copy, repair=True)
    assert report.is_sound, report
    assert verify(copy).is_sound
    with gv.connect(copy) as db:
        assert db["items"].filter("id < 10").count() == 8
        assert "id by sorted" in str(db["items"].filter("id < 10").explain())


def test_repair_leaves_rows_logs_and_entries_alone(original, tmp_path):
    for number, pattern in enumerate(["**/scalar.parquet", "**/*.log", "collections/**/*1.json"]):
        copy = tmp_path / str(number)
        shutil.copytree(original, copy)
        broken = max(copy.glob(pattern))
        flip(broken)
        before = {name: (copy / name).read_bytes() for name in files_of(copy)}
        report = verify(copy, repair=True)
        assert not report.is_sound
        after = {name: (copy / name).read_bytes() for name in files_of(copy)}
        assert after == before, pattern


def test_repair_beside_a_writer_is_refused(original, tmp_path):
    copy = tmp_path / "db"
    shutil.copytree(original, copy)
    with gv.connect(copy) as db:
        db["items"].insert(rows([300]))
        (copy / "catalog/manifest/hint").write_bytes(b"?")
        assert not verify(copy).is_sound
        with pytest.raises(gv.UnavailableError, match="GV-681"):
            verify(copy, repair=True)


# What is no damage


def test_orphans_are_notes(original, tmp_path):
    copy = tmp_path / "db"
    shutil.copytree(original, copy)
    (segment,) = copy.glob("collections/*/seg")
    orphan = segment / keys.ulid(1, "0" * 32) / "scalar.parquet"
    orphan.parent.mkdir()
    orphan.write_bytes(b"left by a flush that died")
    report = verify(copy)
    assert report.is_sound
    (finding,) = report.findings
    assert finding.level is Level.NOTE
    assert finding.key.endswith("/scalar.parquet")
    assert (report.orphans, report.orphan_bytes) == (1, 25)


def test_the_torn_end_of_a_log_is_a_note(original, tmp_path):
    copy = tmp_path / "db"
    shutil.copytree(original, copy)
    newest = max(copy.rglob("*.log"), key=lambda path: (path.stat().st_size, path))
    with newest.open("ab") as file:
        file.write(b"half a frame")
    report = verify(copy)
    assert report.is_sound
    (finding,) = report.findings
    assert "12 bytes" in finding.problem
    assert not is_loud(copy)


def test_the_folder_of_a_dropped_collection_is_a_note(original, tmp_path):
    copy = tmp_path / "db"
    shutil.copytree(original, copy)
    left = copy / "collections/c-01hf7yat00/manifest"
    left.mkdir(parents=True)
    (left / f"{1:020}.json").write_bytes(b"{}")
    report = verify(copy)
    assert report.is_sound
    assert [finding.kind for finding in report.findings] == ["collection"]


def test_a_writer_that_goes_on_is_no_damage(tmp_path):
    path = tmp_path / "db"
    stop = threading.Event()
    with gv.connect(path) as db:
        items = db.create_collection("items", SCHEMA)
        items.insert(rows(range(10)))

        def write():
            first = 10
            while not stop.is_set():
                items.insert(rows(range(first, first + 10)))
                items.delete(ids=[first])
                items.flush()
                first += 10

        writer = threading.Thread(target=write)
        writer.start()
        try:
            reports = [verify(path) for _ in range(10)]
        finally:
            stop.set()
            writer.join()
    for report in reports:
        assert report.is_sound, report.findings


def test_a_file_that_was_collected_meanwhile_is_no_finding(original, tmp_path):
    """A deletion file that a flush replaces between the manifest's reading and its own."""
    copy = tmp_path / "db"
    shutil.copytree(original, copy)
    (old,) = copy.rglob("dv/*/*.arrow")

    class Slow(LocalStore):
        def size(self, key):
            if key.endswith(old.name) and old.exists():
                with gv.connect(copy) as db:
                    db["items"].delete(ids=[2])
                    db["items"].flush()
                old.unlink()
            return super().size(key)

    from gpuvec.verify.scan import Scan
    from gpuvec.verify.walk import Walk

    report = Walk(Scan(Slow(copy), lambda _: None), "here").report()
    assert not old.exists()
    assert report.is_sound, report.findings


# Copies and external collections


def test_a_copy_that_was_cut_is_not_repaired_into_a_whole_one(original, tmp_path):
    copy = tmp_path / "db"
    shutil.copytree(original, copy)
    (copy / "copy.json").write_text('{"format": 1, "made_by": "gpuvec copy"}')
    remove(copy / "gpuvec.json")
    report = verify(copy, repair=True)
    assert not report.is_sound
    assert [finding.kind for finding in report.findings] == ["copy"]
    assert not (copy / "gpuvec.json").exists()


def test_vectors_decoded_from_files_of_others_are_compared_and_forgotten(tmp_path):
    table = pa.table({"id": np.arange(30), "v": pa.array(list(rows(range(30))["v"]))})
    pq.write_table(table, tmp_path / "rows.parquet")
    with gv.connect(tmp_path / "db") as db:
        items = db.create_collection(
            "items", external=str(tmp_path / "rows.parquet"), primary_key="id"
        )
        items.search(np.zeros(8, np.float32), k=3).to_arrow()
    assert verify(tmp_path / "db").is_sound
    (decoded,) = (tmp_path / "db").rglob("vec-v.arrow")
    flip(decoded)
    (finding,) = verify(tmp_path / "db").findings
    assert (finding.kind, finding.code, finding.rows) == ("decoded vectors", "GV-503", 0)
    assert verify(tmp_path / "db", repair=True).is_sound
    assert verify(tmp_path / "db").is_sound
    with gv.connect(tmp_path / "db") as db:
        found = db["items"].search(np.full(8, 7.1, np.float32), k=1, metric="l2").to_arrow()
        assert found["id"].to_pylist() == [7]


# Where databases lie, and the command


def test_a_bucket_is_verified_as_a_folder_is(s3):
    url = s3.new_url()
    with gv.connect(url, storage_options=s3.options) as db:
        items = db.create_collection("items", SCHEMA)
        items.insert(rows(range(30)))
        items.flush()
        items.insert(rows(range(100, 110)))
    assert verify(url, storage_options=s3.options).is_sound
    store = open_store(url, s3.options)
    names = store.list("")
    broken = [name for name in names if name.endswith((".arrow", ".wal"))]
    kept = {name: store.get(name) for name in broken}
    for name, data in kept.items():
        changed = bytearray(data)
        changed[len(data) // 2] ^= 1
        store.put(name, [bytes(changed)])
        report = verify(url, storage_options=s3.options)
        found = {finding.key for finding in report.findings}
        assert found == {name}
        store.put(name, [data])
    assert verify(url, storage_options=s3.options).is_sound


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "gpuvec.cli", "verify", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_exit_code_tells_sound_broken_and_not_looked_at(original, tmp_path):
    sound = command(original)
    assert (sound.returncode, sound.stdout.splitlines()[-1]) == (0, "sound")
    copy = tmp_path / "db"
    shutil.copytree(original, copy)
    (scalars,) = copy.rglob("scalar.parquet")
    flip(scalars)
    broken = command(copy, "--json")
    assert broken.returncode == 1
    told = json.loads(broken.stdout)
    assert told["sound"] is False
    assert told["findings"][0]["code"] == "GV-503"
    assert "30 rows" in command(copy).stdout
    none = command(tmp_path / "none")
    assert none.returncode == 2
    assert "GV-680" in none.stderr
