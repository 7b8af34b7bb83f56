"""Whatever the budget of device memory: the true answer or a plain refusal, on a rehearsed card."""

import threading
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pytest

import gpuvec as gv
from gpuvec.device.residency import residency_of
from gpuvec.errors import DeviceMemoryError
from gpuvec.settings import config
from gpuvec.testing.rehearsal import rehearsal, why_not

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.filterwarnings("ignore:a filter runs on the CPU"),
]
ROWS, DIM, PARTS = 900, 24, 3
MIB = 1 << 20
RNG = np.random.default_rng(5)
VECTORS = RNG.normal(size=(ROWS, DIM)).astype("f4")
QUERIES = RNG.normal(size=(7, DIM)).astype("f4")
VECTOR_BYTES = VECTORS.nbytes
SCHEMA = gv.Schema(
    {"id": gv.Int64(), "kind": gv.Int32(), "price": gv.Float32(), "v": gv.Vector(DIM, metric="l2"),
     "half": gv.Vector(DIM, dtype="float16", metric="cosine")},
    primary_key="id",
)  # fmt: skip
ASKED = {
    "nearest": lambda c: c.search(QUERIES, k=9, on="v"),
    "one": lambda c: c.search(QUERIES[0], k=3, on="v"),
    "cosine": lambda c: c.search(QUERIES, k=4, on="half"),
    "filtered": lambda c: c.filter("price < 0.4").search(QUERIES, k=5, on="v"),
    "few pass": lambda c: c.filter("price < -2").search(QUERIES, k=5, on="v"),
    "range": lambda c: c.search(QUERIES, radius=5.0, on="v"),
    "ring": lambda c: c.search(QUERIES, radius=(4.0, 5.0), k=4, on="v"),
    "groups": lambda c: c.search(QUERIES, k=3, group_by="kind", group_size=2, on="v"),
    "deep": lambda c: c.search(QUERIES, k=ROWS, on="v"),
}


def fill(db):
    items = db.create_collection("items", SCHEMA)
    ids = np.random.default_rng(7).permutation(ROWS)
    for part in np.array_split(np.arange(ROWS), PARTS):

        def column(dtype, part=part):
            flat = pa.array(VECTORS[part].astype(dtype).ravel())
            return pa.FixedSizeListArray.from_arrays(flat, DIM)

        items.insert(
            pa.table({"id": ids[part], "kind": (ids[part] % 11).astype("i4"),
                      "price": VECTORS[part, 0], "v": column("f4"), "half": column("f2")})
        )  # fmt: skip
        items.flush()
    items.delete(filter="id < 20")
    return items


@pytest.fixture(scope="module")
def truth():
    with gv.connect("memory://", device="cpu") as db:
        items = fill(db)
        return {name: ask(items).to_arrow() for name, ask in ASKED.items()}


@contextmanager
def opened(limit, card_bytes=64 * MIB):
    """Yield the card and the collection, searched within a budget."""
    with (
        rehearsal(card_bytes=card_bytes) as card,
        config.set(device__memory_limit=limit),
        gv.connect("memory://", device="gpu") as db,
    ):
        yield card, fill(db)


def asked(items, name, truth):
    """Return whether a question was answered; it must be rightly, or be refused plainly."""
    try:
        found = ASKED[name](items).to_arrow()
    except DeviceMemoryError as error:
        refused = error
    else:
        assert found.equals(truth[name]), name
        return True
    assert refused.code in ("GV-903", "GV-904")
    assert refused.details["parts"].keys() >= {"vectors", "scratch"}
    assert refused.hint.count(";") == 2
    return False


def test_a_database_of_ten_times_the_budget_is_answered_exactly():
    rows, dim = 2000, 256
    vectors, queries = RNG.normal(size=(rows, dim)).astype("f4"), RNG.normal(size=(3, dim))
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dim)
    data = pa.table({"id": np.arange(rows), "v": column})

    def answers(device):
        with gv.connect("memory://", device=device) as db:
            items = db.create_collection("items", data=data, primary_key="id")
            items.flush()
            return [
                items.search(queries, k=3).to_arrow(),
                items.filter("id < 300").search(queries, k=3).to_arrow(),
                items.search(queries, radius=0.9).to_arrow(),
            ]

    true = answers("cpu")
    with rehearsal(card_bytes=64 * MIB) as card, config.set():
        config.set(device__memory_limit=vectors.nbytes // 10)
        assert answers("gpu") == true
        assert residency_of(0).budget.peak_bytes <= vectors.nbytes // 10
        assert sum(card.copies.to_device) >= 3 * vectors.nbytes


def test_what_fits_goes_up_once_and_then_only_queries_and_results_move(truth):
    with opened(16 * VECTOR_BYTES) as (card, items):
        for _ in range(3):
            assert asked(items, "nearest", truth)
        card.copies.clear()
        assert asked(items, "nearest", truth)
        answer = truth["nearest"]
        assert sum(card.copies.to_device) <= QUERIES.nbytes + 16 * PARTS * len(QUERIES)
        assert sum(card.copies.to_host) <= PARTS * len(answer) * 12 + 1024


@pytest.mark.parametrize("limit", [100, 2000])
def test_a_budget_too_small_for_anything_says_what_is_needed_and_what_to_do(truth, limit):
    with opened(limit) as (_, items):
        assert not asked(items, "nearest", truth)
        with pytest.raises(DeviceMemoryError, match="of device memory") as caught:
            items.search(QUERIES, k=9, on="v").to_arrow()
    details = caught.value.details
    assert details["needed"] > details["free"]
    assert details["limit"] == limit


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 20))]
)
def test_random_budgets_never_give_a_wrong_answer(truth, seed):
    rng = np.random.default_rng(seed)
    with opened(16 * VECTOR_BYTES) as (card, items):
        answered = 0
        for name in rng.choice(list(ASKED), 6):
            config.set(device__memory_limit=int(2 ** rng.uniform(12, 21)))
            card.others = int(rng.choice([0, 0, 63 * MIB]))  # another process comes and goes
            answered += asked(items, name, truth)
        card.others = 0
        config.set(device__memory_limit=16 * VECTOR_BYTES)
        assert all(asked(items, name, truth) for name in ASKED)
    assert answered


def test_a_card_that_another_process_fills_is_given_up_plainly_and_used_again(truth):
    with opened(16 * VECTOR_BYTES) as (card, items):
        assert asked(items, "nearest", truth)
        card.free_pool()
        card.others = card.total
        assert not asked(items, "range", truth)
        card.others = card.total - 200_000  # less than there was, and enough for parts
        assert asked(items, "nearest", truth)
        card.others = 0
        assert asked(items, "range", truth)


def test_threads_share_a_small_budget(truth):
    with opened(VECTOR_BYTES // 2) as (_, items):
        errors = []

        def work(number):
            rng = np.random.default_rng(number)
            try:
                for name in rng.choice(["nearest", "one", "filtered", "cosine"], 2):
                    assert asked(items, name, truth)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert not errors
        assert residency_of(0).budget.parts()["scratch"] == 0


@pytest.mark.parametrize("limit", [VECTOR_BYTES // 10, VECTOR_BYTES // 2, 4 * VECTOR_BYTES])
def test_what_is_booked_is_what_the_card_gives(truth, limit):
    with opened(limit) as (card, items):
        for name in ("nearest", "cosine", "filtered", "range"):
            asked(items, name, truth)
            assert card.most_used <= limit + 64 * 512, name  # it gives whole pieces of 512 bytes
