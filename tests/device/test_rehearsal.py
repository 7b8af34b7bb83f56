"""The product's whole path on a rehearsed device gives the answers of the host: no holes."""

import ml_dtypes
import numpy as np
import pytest

import gpuvec as gv
from gpuvec.testing import rehearsal

ROWS = 400
DIM = 16
RNG = np.random.default_rng(5)
VECTORS = RNG.normal(size=(ROWS, DIM)).astype(np.float32)
BITS = RNG.integers(0, 256, (ROWS, 4), dtype=np.uint8)
QUERIES = VECTORS[:7] + np.float32(0.01)
TYPES = {
    "float16": VECTORS.astype(np.float16),
    "bfloat16": VECTORS.astype(ml_dtypes.bfloat16),
    "int8": (VECTORS * 30).clip(-127, 127).astype(np.int8),
    "uint8": (np.abs(VECTORS) * 60).clip(0, 255).astype(np.uint8),
}
SCHEMA = gv.Schema(
    {
        "id": gv.Int64(),
        "brand": gv.String(),
        "shelf": gv.Int64(nullable=True),
        "price": gv.Float64(),
        "v": gv.Vector(DIM, metric="cosine"),
        "b": gv.BinaryVector(32, metric="hamming"),
        "some": gv.Vector(DIM, metric="l2", nullable=True),
        **{name: gv.Vector(DIM, dtype=name, metric="l2") for name in TYPES},
    },
    primary_key="id",
)


def fill(db):
    made = db.create_collection("items", SCHEMA)
    for part in (slice(0, 300), slice(300, ROWS)):
        ids = np.arange(ROWS)[part]
        made.insert(
            {
                "id": ids[::-1] * 7 % 1000,  # rows do not lie in order of their keys
                "brand": [f"brand {i % 9}" for i in ids],
                "shelf": [None if i % 11 == 0 else int(i) // 3 for i in ids],
                "price": ids / 4,
                "v": VECTORS[part],
                "b": BITS[part],
                "some": [None if i % 4 == 0 else VECTORS[i] for i in ids],
                **{name: values[part] for name, values in TYPES.items()},
            }
        )
        made.flush()
    made.delete(filter="id % 50 == 3")
    return made


QUESTIONS = {
    "top k": lambda items: items.search(QUERIES, k=5, on="v"),
    "one query": lambda items: items.search(QUERIES[0], k=5, on="v"),
    "filtered": lambda items: items.filter("price < 40").search(QUERIES, k=5, on="v"),
    "thinly filtered": lambda items: items.filter("id % 97 == 1").search(QUERIES, k=9, on="v"),
    "nothing passes": lambda items: items.filter("price < 0").search(QUERIES, k=9, on="v"),
    "filtered after": lambda items: items.search(QUERIES, k=50, on="v").filter("price < 40"),
    "every row": lambda items: items.search(QUERIES, k=1000, on="v"),
    "many": lambda items: items.search(QUERIES, k=200, on="v"),
    "all in order": lambda items: items.search(QUERIES[0], k=None, on="v"),
    "range": lambda items: items.search(QUERIES, radius=0.8, on="v"),
    "ring": lambda items: items.search(QUERIES, radius=(0.5, 0.8), on="v"),
    "range, at most k": lambda items: items.search(QUERIES, radius=0.8, k=4, on="v"),
    "groups": lambda items: items.search(QUERIES, k=3, group_by="brand", group_size=2, on="v"),
    "many groups": lambda items: items.search(QUERIES, k=9, group_by="shelf", on="v"),
    "large groups": lambda items: items.search(
        QUERIES, k=4, group_by="shelf", group_size=3, on="v"
    ),
    "groups in range": lambda items: items.search(QUERIES, radius=0.9, group_by="brand", on="v"),
    "filtered groups": lambda items: items.filter("price < 40").search(
        QUERIES, k=3, group_by="brand", on="v"
    ),
    "nulls": lambda items: items.search(QUERIES, k=30, on="some"),
    "own rows": lambda items: items.search(
        items.get([7, 14, 21]), k=5, exclude_self=True, on="v", query_on="v"
    ),
    "vectors too": lambda items: items.search(QUERIES, k=3, on="v").select("v", "id"),
    "counted": lambda items: (
        items.search(QUERIES, k=40, on="v").group_by("brand").agg(n=gv.count())
    ),
    "bits": lambda items: items.search(BITS[:3], k=5, on="b"),
    "many bits": lambda items: items.search(BITS[:3], k=300, on="b"),
    "filtered bits": lambda items: items.filter("price < 40").search(BITS[:9], k=5, on="b"),
    "sets": lambda items: items.search(BITS[:9], k=7, on="b", metric="jaccard"),
    "bits in range": lambda items: items.search(BITS[:3], radius=12, on="b"),
    "groups of bits": lambda items: items.search(BITS[:3], k=3, group_by="brand", on="b"),
    **{
        f"{metric} of {name}": lambda items, metric=metric, name=name: items.search(
            QUERIES, k=12, on=name, metric=metric
        )
        for metric in ("cosine", "l2", "sqeuclidean", "ip")
        for name in ("v", *TYPES)
    },
    **{
        f"range by {metric} of {name}": lambda items, metric=metric, name=name, far=far: (
            items.search(QUERIES, radius=far, on=name, metric=metric)
        )
        for metric, far in (("cosine", 0.9), ("l2", 5.0), ("ip", -3.0))
        for name in ("v", "float16", "bfloat16")
    },
}


@pytest.fixture(scope="module")
def on_host(tmp_path_factory):
    """A collection that the host searches."""
    with gv.connect(tmp_path_factory.mktemp("host") / "db", device="cpu") as db:
        yield fill(db)


@pytest.fixture(scope="module")
def on_device(tmp_path_factory):
    """A card, and the same collection searched on it."""
    if why := rehearsal.why_not():
        pytest.skip(why)
    with (
        rehearsal.rehearsal() as card,
        gv.connect(tmp_path_factory.mktemp("device") / "db", device="gpu") as db,
    ):
        yield card, fill(db)


@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_are_those_of_the_host(on_host, on_device, question):
    card, items = on_device
    card.copies.clear()
    found = QUESTIONS[question](items).to_arrow()
    assert card.copies.to_device, "nothing went to the device"
    wanted = QUESTIONS[question](on_host).to_arrow()
    assert found.equals(wanted)


def test_neighbours_come_batch_by_batch(on_host, on_device):
    batches = [
        [
            batch["id"].to_pylist()
            for batch in items.search(QUERIES[0], k=None, on="v").to_batches(50)
        ]
        for items in (on_host, on_device[1])
    ]
    assert batches[0] == batches[1]
    assert len(batches[0]) > 5


def test_a_device_is_taken_if_there_is_one(rehearsed, tmp_path):
    with gv.connect(tmp_path / "db") as db:
        fill(db).search(QUERIES, k=3, on="v").to_arrow()
    assert sum(rehearsed.copies.to_device) >= VECTORS.nbytes
