import pytest

from gpuvec.errors import QueryError, UnavailableError, UnsupportedError
from gpuvec.storage.local import LocalStore
from gpuvec.storage.memory import MemoryStore
from gpuvec.storage.open import open_store


def test_paths_and_file_urls_are_the_same(tmp_path):
    for url in (tmp_path / "db", str(tmp_path / "db"), f"file://{tmp_path}/db"):
        store = open_store(url)
        assert isinstance(store, LocalStore)
        assert store.root == tmp_path / "db"


def test_home_and_the_present_folder_are_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert open_store("~/db").root == open_store("db").root == tmp_path / "db"


def test_memory_is_new_unless_it_has_a_name():
    assert isinstance(open_store("memory://"), MemoryStore)
    assert open_store("memory://") is not open_store("memory://")
    assert open_store("memory://test-open") is open_store("MEMORY://test-open")
    assert open_store("memory://test-open") is not open_store("memory://test-open-2")


@pytest.mark.parametrize("url", ["https://x.org/db", "s3://", "gs:///folder", "file://"])
def test_other_stores_are_refused_by_name(url):
    with pytest.raises(UnsupportedError, match=url) as caught:
        open_store(url)
    assert caught.value.code == "GV-508"


def test_options_are_never_ignored(tmp_path):
    with pytest.raises(UnsupportedError, match="profile") as caught:
        open_store(tmp_path, {"profile": "prod"})
    assert caught.value.code == "GV-511"
    with pytest.raises(QueryError, match="durability"):
        open_store(tmp_path, durability="sometimes")


def test_a_lock_in_memory_is_held_once():
    store = open_store("memory://")
    with store.lock("k"), store.lock("other"), pytest.raises(UnavailableError, match="process"):
        store.lock("k").__enter__()
    with store.lock("k"):
        pass
