"""A loaded collection on a card, or rehearsed without cuDF: what crosses, and what lies there."""

from contextlib import contextmanager

import numpy as np
import pytest

import gpuvec as gv
from gpuvec.device import transfer
from gpuvec.device.arrays import is_device_array
from gpuvec.query.device_arrays import arrays_on_device
from gpuvec.query.device_columns import DeviceColumns, filter_engine
from gpuvec.query.execute import Run

ROWS, DIM, K = 20_000, 32, 10
RNG = np.random.default_rng(5)
VECTORS = RNG.normal(size=(ROWS, DIM)).astype(np.float32)
QUERIES = VECTORS[:20] + np.float32(0.01)
PROGRAM_BYTES = 4096  # of a condition, for each segment
SCHEMA = gv.Schema(
    {
        "id": gv.Int64(), "brand": gv.String(), "price": gv.Float64(nullable=True),
        "sold": gv.Bool(), "at": gv.Timestamp(), "v": gv.Vector(DIM, metric="cosine"),
    },
    primary_key="id",
)  # fmt: skip


@contextmanager
def loaded(path):
    with gv.connect(path, device="gpu") as db:
        made = db.create_collection("items", SCHEMA)
        for start in range(0, ROWS, ROWS // 2):
            ids = np.arange(start, start + ROWS // 2)
            made.insert(
                {
                    "id": ids, "brand": [f"brand {i % 40}" for i in ids],
                    "price": [None if i % 13 == 0 else i / 4 for i in ids], "sold": ids % 3 == 0,
                    "at": ids.astype("datetime64[s]"), "v": VECTORS[ids],
                }
            )  # fmt: skip
            made.flush()
        made.delete(filter="id % 50 == 3")
        made.load(device="gpu")
        yield made


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    with loaded(tmp_path_factory.mktemp("card") / "db") as made:
        yield made


def crossed(work):
    before = transfer.copied()
    work()
    after = transfer.copied()
    return {
        key: size - before.get(key, 0) for key, size in after.items() if size != before.get(key)
    }


CONDITIONS = [
    "price < 2000", 'brand in ["brand 3", "brand 9"] and sold', "price is null or id % 7 == 1",
    'brand like "brand 1%" and at < "1970-01-01T03:00Z"', "id < 0",
]  # fmt: skip


def check_copies(items, text):
    moved = crossed(lambda: items.filter(text).search(QUERIES, k=K, on="v").select("id").to_arrow())
    assert {purpose for _, purpose in moved} <= {"queries", "results"}
    up = moved.get((transfer.UP, "queries"), 0)
    down = moved.get((transfer.DOWN, "results"), 0)
    assert up <= QUERIES.nbytes + 2 * PROGRAM_BYTES
    assert down <= 2 * len(QUERIES) * K * (8 + 4) + 1024


@pytest.mark.gpu
@pytest.mark.parametrize("text", CONDITIONS)
def test_a_filtered_search_copies_nothing_larger_than_its_queries_and_results(items, text):
    check_copies(items, text)


def test_so_it_does_rehearsed(rehearsed, tmp_path):
    with loaded(tmp_path / "db") as items:
        for text in CONDITIONS:
            check_copies(items, text)


@pytest.mark.gpu
def test_the_vectors_are_arrays_on_the_card(items):
    frame = items.filter("sold").select("v")
    moved = crossed(lambda: arrays_on_device(frame.plan, items._session))
    assert sum(moved.values()) <= 2 * PROGRAM_BYTES
    found = arrays_on_device(frame.plan, items._session)["v"]
    assert is_device_array(found)
    np.testing.assert_array_equal(found.get(), frame.to_numpy()["v"])


@pytest.mark.gpu
def test_the_scalars_of_a_segment_are_a_cudf_frame(items):
    cudf = pytest.importorskip("cudf")
    kinds = {n: k.arrow_type() for n, k in SCHEMA.fields.items() if not k.is_vector}
    with Run(items._session) as run:
        part = next(iter(run.parts(items.plan)))
        engine = filter_engine()
        columns = DeviceColumns(part.origin, items._session, engine, "items")
        assert all(map(columns.has, kinds))
        with columns.held(kinds) as held:
            frame = engine.frame(held, kinds)
            assert isinstance(frame.frame, cudf.DataFrame)
            assert frame.to_arrow().equals(part.origin.base.table(list(kinds)).combine_chunks())


@pytest.mark.gpu
def test_filtered_rows_become_a_cudf_frame_without_leaving_the_card(items):
    cudf = pytest.importorskip("cudf")
    frame = items.filter("price < 2000 and sold").select("id", "brand", "price")
    assert sum(crossed(frame.to_cudf).values()) <= 2 * PROGRAM_BYTES
    found = frame.to_cudf()
    assert isinstance(found, cudf.DataFrame)
    assert found.to_arrow(preserve_index=False).to_pydict() == frame.to_arrow().to_pydict()
