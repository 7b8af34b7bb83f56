import numpy as np
import pytest

from gpuvec.clock import ManualClock
from gpuvec.errors import CorruptError
from gpuvec.storage import keys
from gpuvec.storage.index_files import IndexFiles, write_index_files
from gpuvec.storage.local import LocalStore
from gpuvec.storage.memory import MemoryStore
from gpuvec.storage.object_store import run
from gpuvec.storage.records import FileRecord

PREFIX = keys.collection("c-1")
ULID = keys.ulid(1, "0" * 20)
CODES = np.arange(5000, dtype=np.int16).reshape(-1, 10)
FILES = {"codes.bin": [b"head", CODES, memoryview(b"tail")], "empty": []}


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return LocalStore(tmp_path) if request.param == "local" else MemoryStore()


@pytest.fixture
def files(store):
    written = run(write_index_files(PREFIX, "seg-1", ULID, FILES), store, ManualClock())
    again = {name: FileRecord.from_json(record.to_json()) for name, record in written.items()}
    return IndexFiles(store, again)


def test_files_come_back_as_they_were_written(store, files):
    assert files.read("codes.bin").tobytes() == b"head" + CODES.tobytes() + b"tail"
    assert files.read("codes.bin") is files.read("codes.bin")
    assert not files.read("codes.bin").flags.writeable
    assert files.read("empty").size == 0
    assert files.size_bytes == 8 + CODES.nbytes


def test_files_lie_below_segment_and_index(store, files):
    found = store.list(f"{keys.indexes_folder(PREFIX)}/")
    assert found == [keys.index_file(PREFIX, "seg-1", ULID, name) for name in sorted(FILES)]
    assert {keys.parse_index(key) for key in found} == {ULID}
    assert keys.parse_index(keys.scalar_file(PREFIX, "seg-1")) is None


def test_a_path_is_told_where_there_is_one(store, files):
    path = files.path("codes.bin")
    assert (path is None) == isinstance(store, MemoryStore)
    if path is not None:
        assert np.fromfile(path, np.uint8).tobytes() == files.read("codes.bin").tobytes()


@pytest.mark.parametrize(
    ("code", "damage"),
    [
        ("GV-501", lambda store, key: store.delete([key])),
        ("GV-502", lambda store, key: store.put(key, [store.get(key)[:-1]])),
        ("GV-503", lambda store, key: store.put(key, [b"X" + store.get(key)[1:]])),
    ],
)
def test_damage_is_found_at_the_first_use(store, files, code, damage):
    damage(store, files.records["codes.bin"].key)
    with pytest.raises(CorruptError) as caught:
        files.read("codes.bin")
    assert caught.value.code == code
    assert "codes.bin" in str(caught.value)
