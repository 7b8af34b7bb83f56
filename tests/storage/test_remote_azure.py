import itertools
import shutil

import numpy as np
import pytest

import gpuvec as gv
from gpuvec.storage.open import open_store
from gpuvec.storage.probe import probe
from gpuvec.testing.servers import AZURITE, azurite_server
from gpuvec.testing.stores import ObjectStoreTests

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which(AZURITE) is None, reason=f"no {AZURITE}: npm install azurite"),
]
places = itertools.count()


@pytest.fixture(scope="module")
def azurite(tmp_path_factory):
    with azurite_server(tmp_path_factory.mktemp("azurite")) as found:
        yield found


@pytest.fixture
def place(azurite):
    container, options = azurite
    return {"url": f"{container}/t{next(places)}", "storage_options": options}


@pytest.fixture
def store(place):
    return open_store(**place)


class TestAzure(ObjectStoreTests):
    pass


def test_it_keeps_writers_apart(store):
    probe(store, "here")
    assert store.list("") == []


def test_large_objects_and_folders(store):
    data = np.arange(12_000_000, dtype=np.uint32)
    store.put("large", [data[:5_000_000], data[5_000_000:]])
    assert store.get("large") == data.tobytes()
    store.put("collections/c-1/a", [b"x"])
    assert store.folders("collections") == ["c-1"]
    assert store.peek() == ["collections", "large"]


def test_a_database_is_there_again(place):
    path, options = place["url"], place["storage_options"]
    schema = gv.Schema({"id": gv.Int64(), "v": gv.Vector(4)}, primary_key="id")
    rows = {"id": np.arange(100), "v": np.ones((100, 4), np.float32)}
    with gv.connect(path, storage_options=options) as db:
        items = db.create_collection("items", schema)
        items.insert(rows)
        items.flush()
        items.delete(ids=[1])
    with gv.connect(path, storage_options=options) as db:
        assert db["items"].count() == 99


def test_a_missing_container_is_named(azurite):
    store = open_store("az://not-there/x", azurite[1])
    for call in (lambda: store.list(""), lambda: store.put("k", [b"x"]), lambda: store.get("k")):
        with pytest.raises(gv.StorageError, match="does not exist") as caught:
            call()
        assert caught.value.code == "GV-535"
