"""`load` pins a collection on a rehearsed card, `release` lets it go."""

import numpy as np
import pyarrow as pa
import pytest

import gpuvec as gv
from gpuvec.device.residency import residency_of
from gpuvec.errors import DeviceMemoryError, QueryError, UnsupportedError
from gpuvec.settings import config
from gpuvec.testing.rehearsal import rehearsal, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())
ROWS, DIM = 600, 16
VECTORS = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype("f4")
needs_no_cudf = pytest.mark.filterwarnings("ignore:a filter runs on the CPU")


def fill(db, name="items"):
    column = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.ravel()), DIM)
    data = pa.table({"id": np.arange(ROWS), "v": column})
    items = db.create_collection(name, data=data, primary_key="id")
    items.flush()
    return items


@pytest.fixture
def card():
    with rehearsal(card_bytes=1 << 24) as found, config.set():
        config.set(device__memory_limit=12 * VECTORS.nbytes // 5)
        yield found


@pytest.fixture
def db(card):
    with gv.connect("memory://", device="gpu") as found:
        yield found


def held():
    return residency_of(0).budget.parts()["vectors"]


@needs_no_cudf
def test_what_is_loaded_is_there_before_the_first_search(db, card):
    items = fill(db)
    assert held() == 0
    items.load()
    assert held() == VECTORS.nbytes
    card.copies.clear()
    items.search(VECTORS[:3], k=2).to_arrow()
    assert sum(card.copies.to_device) < 1024


@needs_no_cudf
def test_what_is_pinned_stays_though_others_need_the_room_and_they_are_answered(db):
    items, others = fill(db), fill(db, "others")
    items.load(device="gpu")
    for _ in range(2):
        found = others.search(VECTORS[:3], k=1).to_arrow()
        assert found["id"].to_pylist() == [0, 1, 2]
        assert held() == VECTORS.nbytes
    items.release()
    assert held() == 0
    others.search(VECTORS[:3], k=1).to_arrow()
    assert held() == VECTORS.nbytes
    assert items.search(VECTORS[:3], k=1).to_arrow()["id"].to_pylist() == [0, 1, 2]


@needs_no_cudf
def test_what_does_not_fit_is_refused_and_nothing_of_it_stays(db):
    items, others = fill(db), fill(db, "others")
    others.load()
    with pytest.raises(DeviceMemoryError, match="loading items") as caught:
        items.load()
    assert caught.value.code == "GV-903"
    assert held() == VECTORS.nbytes
    assert items.search(VECTORS[:3], k=1).to_arrow()["id"].to_pylist() == [0, 1, 2]


def test_a_database_loads_only_where_it_searches(card):
    with gv.connect("memory://", device="cpu") as db:
        items = fill(db)
        with pytest.raises(QueryError, match="GV-905"):
            items.load(device="gpu")
        with pytest.raises(QueryError, match="GV-902"):
            items.load(device="tpu")


def test_on_the_cpu_loading_changes_no_answer(tmp_path):
    with gv.connect(tmp_path / "db", device="cpu") as db:
        items = fill(db)
        items.load()
        items.load(device="cpu")
        assert items.search(VECTORS[:3], k=1).to_arrow()["id"].to_pylist() == [0, 1, 2]
        items.release()
        with pytest.raises(UnsupportedError, match="GV-900"):
            items.load(device="gpu")


def test_a_closed_database_holds_nothing(db):
    items = fill(db)
    items.search(VECTORS[:3], k=1).to_arrow()
    assert held() > 0
    db.close()
    assert held() == 0
