"""The product's whole path on a rehearsed device gives the answers of the host."""

import numpy as np
import pytest

import gpuvec as gv

ROWS = 400
DIM = 16
RNG = np.random.default_rng(5)
VECTORS = RNG.normal(size=(ROWS, DIM)).astype(np.float32)
BITS = RNG.integers(0, 256, (ROWS, 4), dtype=np.uint8)
QUERIES = VECTORS[:7] + np.float32(0.01)
SCHEMA = gv.Schema(
    {
        "id": gv.Int64(),
        "brand": gv.String(),
        "price": gv.Float64(),
        "v": gv.Vector(DIM, metric="cosine"),
        "b": gv.BinaryVector(32, metric="hamming"),
    },
    primary_key="id",
)


def fill(db):
    made = db.create_collection("items", SCHEMA)
    for part in (slice(0, 300), slice(300, ROWS)):
        ids = np.arange(ROWS)[part]
        made.insert(
            {
                "id": ids,
                "brand": [f"brand {i % 9}" for i in ids],
                "price": ids / 4,
                "v": VECTORS[part],
                "b": BITS[part],
            }
        )
        made.flush()
    made.delete(filter="id % 50 == 3")
    return made


QUESTIONS = {
    "top k": lambda items: items.search(QUERIES, k=5, on="v"),
    "filtered": lambda items: items.filter("price < 40").search(QUERIES, k=5, on="v"),
    "thinly filtered": lambda items: items.filter("id % 97 == 1").search(QUERIES, k=9, on="v"),
    "every row": lambda items: items.search(QUERIES, k=1000, on="v"),
    "range": lambda items: items.search(QUERIES, radius=0.8, on="v"),
    "groups": lambda items: items.search(QUERIES, k=3, group_by="brand", group_size=2, on="v"),
    "bits": lambda items: items.search(BITS[:3], k=5, on="b"),
    "bits in range": lambda items: items.search(BITS[:3], radius=12, on="b"),
    "euclid": lambda items: items.search(QUERIES, k=5, on="v", metric="l2"),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What the host answers."""
    with gv.connect(tmp_path_factory.mktemp("host") / "db", device="cpu") as db:
        items = fill(db)
        return {name: ask(items).to_arrow() for name, ask in QUESTIONS.items()}


@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_are_those_of_the_host(rehearsed, tmp_path, answers, question):
    with gv.connect(tmp_path / "db", device="gpu") as db:
        found = QUESTIONS[question](fill(db)).to_arrow()
    wanted = answers[question]
    assert rehearsed.copies.to_device, "nothing went to the device"
    assert found.drop_columns("distance").equals(wanted.drop_columns("distance"))
    np.testing.assert_array_equal(found["distance"], wanted["distance"])


def test_a_device_is_taken_if_there_is_one(rehearsed, tmp_path):
    with gv.connect(tmp_path / "db") as db:
        fill(db).search(QUERIES, k=3, on="v").to_arrow()
    assert sum(rehearsed.copies.to_device) >= VECTORS.nbytes
