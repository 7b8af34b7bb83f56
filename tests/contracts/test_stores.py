import pytest

from gpuvec.storage.local import LocalStore
from gpuvec.storage.memory import MemoryStore
from gpuvec.testing.faults import FaultStore
from gpuvec.testing.stores import ObjectStoreTests


class TestMemoryStore(ObjectStoreTests):
    @pytest.fixture
    def store(self):
        return MemoryStore()


class TestMemoryStoreWithoutLogs(ObjectStoreTests):
    @pytest.fixture
    def store(self):
        return MemoryStore(appendable=False)


class TestLocalStore(ObjectStoreTests):
    @pytest.fixture
    def store(self, tmp_path):
        store = LocalStore(tmp_path / "not" / "there" / "yet")
        yield store
        store.close()


class TestLocalStoreWithoutSync(ObjectStoreTests):
    @pytest.fixture
    def store(self, tmp_path):
        store = LocalStore(tmp_path, durability="os")
        yield store
        store.close()


class TestFaultStoreWithoutFaults(ObjectStoreTests):
    @pytest.fixture
    def store(self):
        return FaultStore(MemoryStore())
