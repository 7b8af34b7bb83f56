"""Rows of a collection as arrays on a rehearsed card: those of the host, and nothing crosses."""

import numpy as np
import pytest

import gpuvec as gv
from gpuvec.device import columns, fallback, transfer
from gpuvec.device.arrays import is_device_array
from gpuvec.device.frames import ArrowFrame
from gpuvec.device.library import cupy_module
from gpuvec.kernels.predicate import PlainColumns
from gpuvec.query.device_arrays import arrays_on_device
from gpuvec.testing.programs import MeaningColumns

VECTORS = np.random.default_rng(3).normal(size=(100, 4)).astype(np.float32)
SCHEMA = gv.Schema(
    {
        "id": gv.Int64(),
        "price": gv.Float64(),
        "sold": gv.Bool(),
        "maybe": gv.Int32(nullable=True),
        "brand": gv.String(),
        "v": gv.Vector(4, metric="l2"),
        "h": gv.Vector(4, dtype="bfloat16"),
        "b": gv.BinaryVector(16),
        "none": gv.Vector(4, nullable=True),
    },
    primary_key="id",
)


class Frame(ArrowFrame):
    """Numbers leave it as arrays on the device, as cuDF's do."""

    def values(self, name):
        return cupy_module().asarray(super().values(name))


class Columns(MeaningColumns):
    def frame(self, held, kinds):
        return Frame(super().frame(held, kinds).table)


@pytest.fixture
def items(rehearsed, tmp_path):
    fallback.forget()
    with columns.using(Columns()), gv.connect(tmp_path / "db", device="gpu") as db:
        made = db.create_collection("items", SCHEMA)
        for at in (slice(0, 60), slice(60, 100)):
            ids = np.arange(100)[at]
            made.insert(
                {
                    "id": ids, "price": ids / 4, "sold": ids % 2 == 0,
                    "maybe": [None if i % 3 else int(i) for i in ids],
                    "brand": [f"brand {i % 3}" for i in ids], "v": VECTORS[at],
                    "h": VECTORS[at], "b": np.tile(ids[:, None], 2).astype(np.uint8),
                    "none": [None if i % 2 else VECTORS[i] for i in ids],
                }
            )  # fmt: skip
            made.flush()
        made.delete(filter="id % 10 == 3")
        yield made


def arrays(frame):
    return arrays_on_device(frame.plan, frame._session)


@pytest.mark.parametrize(
    "frame",
    [
        lambda items: items.select("v"),
        lambda items: items.filter("price < 20").select("b", "id", "v", "price", "sold"),
        lambda items: items.filter("id < 30").select("v", "id"),
    ],
    ids=["all vectors", "filtered", "one segment"],
)
def test_arrays_are_those_of_the_host(items, frame):
    found, wanted = arrays(frame(items)), frame(items).to_numpy()
    assert list(found) == list(wanted)
    for name, array in found.items():
        assert is_device_array(array)
        np.testing.assert_array_equal(array.get(), wanted[name])


def test_bfloat16_comes_as_its_bits(items):
    found = arrays(items.select("h"))["h"]
    wanted = items.select("h").to_numpy()["h"]
    np.testing.assert_array_equal(found.get(), wanted.view(np.uint16))


def test_vectors_that_were_searched_cross_nothing(items):
    items.search(VECTORS[:2], k=3, on="v").to_arrow()
    items.filter("price < 20").search(VECTORS[:2], k=3, on="v").to_arrow()
    before = transfer.copied()
    arrays(items.filter("price < 20").select("v"))
    assert transfer.copied() == before


def test_what_is_changed_is_a_copy(items):
    arrays(items.select("v"))["v"][:] = 0
    np.testing.assert_array_equal(arrays(items.select("v"))["v"].get(),
                                  items.select("v").to_numpy()["v"])  # fmt: skip


@pytest.mark.parametrize(
    "frame",
    [
        lambda items: items.select("brand"),
        lambda items: items.select("maybe"),
        lambda items: items.select("none"),
        lambda items: items.sort("price").select("v"),
        lambda items: items.filter("id < 0").select("v"),
        lambda items: items.search(VECTORS[0], k=3, on="v").select("id"),
    ],
    ids=["texts", "nulls", "null vectors", "sorted", "no rows", "searched"],
)
def test_what_has_no_array_there_is_made_on_the_host(items, frame):
    assert arrays(frame(items)) is None


def test_vectors_need_no_cudf(items):
    with columns.using(PlainColumns()):
        assert arrays(items.select("v")) is not None
        assert arrays(items.select("v", "id")) is None
