"""Filters on a rehearsed card: the host's answers, and nothing crosses the bus that need not."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gpuvec as gv
from gpuvec.device import columns, fallback, transfer
from gpuvec.expr.bind import bind_filter
from gpuvec.kernels import bitset
from gpuvec.kernels.predicate import PlainColumns
from gpuvec.query.evaluate import keep_part
from gpuvec.query.memory_source import MemoryView, new_segment_id
from gpuvec.query.part import segment_part
from gpuvec.query.session import new_session
from gpuvec.rows import Rows
from gpuvec.testing import strategies
from gpuvec.testing.programs import MeaningColumns

ROWS, DIM = 1500, 8
RNG = np.random.default_rng(11)
VECTORS = RNG.normal(size=(ROWS, DIM)).astype(np.float32)
QUERIES = VECTORS[:5] + np.float32(0.01)
PLACES = 3 * 64  # where three segments and their bits lie, told anew where bits are made anew
SCHEMA = gv.Schema(
    {
        "id": gv.Int64(),
        "brand": gv.String(nullable=True),
        "price": gv.Float64(nullable=True),
        "extra": gv.JSON(nullable=True),
        "v": gv.Vector(DIM, metric="l2"),
    },
    primary_key="id",
)
FILTERS = [
    "price < 200",
    'price < 300 and brand in ["brand 1", "brand 4"]',
    'extra["n"] < 900',
    'price < 300 and extra["n"] < 900 and upper(brand) == "BRAND 2"',
    "price is null or id % 7 == 3",
    "id < 0",
]


def fill(db):
    made = db.create_collection("items", SCHEMA)
    for start in (0, 700):
        ids = np.arange(start, min(start + 700, ROWS))
        made.insert(
            {
                "id": ids,
                "brand": [None if i % 11 == 0 else f"brand {i % 5}" for i in ids],
                "price": [None if i % 13 == 0 else i / 4 for i in ids],
                "extra": [{"n": int(i)} for i in ids],
                "v": VECTORS[ids],
            }
        )
        made.flush()
    made.insert({"id": [ROWS], "brand": ["brand 1"], "price": [0.5], "extra": [{}],
                 "v": VECTORS[:1] + 1})  # fmt: skip
    made.delete(filter="id % 50 == 3")
    return made


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What the host answers."""
    with gv.connect(tmp_path_factory.mktemp("host") / "db", device="cpu") as db:
        items = fill(db)
        return {text: found(items, text) for text in FILTERS}


def found(items, text):
    got = items.filter(text).search(QUERIES, k=6, on="v").select("query_id", "id", "distance")
    return got.to_arrow().to_pydict()


def same(got, wanted):
    assert got["id"] == wanted["id"]
    assert got["query_id"] == wanted["query_id"]
    np.testing.assert_allclose(got["distance"], wanted["distance"], rtol=1e-5)


class NoColumns(MeaningColumns):
    """Nothing can be run on the device."""

    def refuses(self, program):
        return "anything"


ENGINES = {
    "no columns": NoColumns, "columns on the device": MeaningColumns, "our own": PlainColumns,
}  # fmt: skip
ON_DEVICE = pytest.mark.parametrize("engine", ["columns on the device", "our own"], indirect=True)


@pytest.fixture(params=ENGINES)
def engine(request):
    return ENGINES[request.param]()


@pytest.fixture
def items(rehearsed, engine, tmp_path):
    fallback.forget()
    with columns.using(engine), gv.connect(tmp_path / "db", device="gpu") as db:
        yield fill(db)


def crossed(work):
    """Return what crosses the bus while work is done, by direction and purpose."""
    before = transfer.copied()
    work()
    after = transfer.copied()
    return {
        key: after[key] - before.get(key, 0) for key in after if after[key] > before.get(key, 0)
    }


@pytest.mark.filterwarnings("ignore::gpuvec.FallbackWarning")
def test_filtered_searches_are_answered_as_on_the_host(items, answers):
    for text in (*FILTERS, *FILTERS):
        same(found(items, text), answers[text])


@pytest.mark.filterwarnings("ignore::gpuvec.FallbackWarning")
def test_deletes_and_new_rows_are_seen(items, answers):
    before = found(items, "price < 200")["id"]
    items.delete(ids=[before[0]])
    items.insert({"id": [ROWS + 1], "brand": ["new"], "price": [1.0], "extra": [{}],
                  "v": QUERIES[:1]})  # fmt: skip
    after = found(items, "price < 200")["id"]
    assert before[0] not in after
    assert after[0] == ROWS + 1


@pytest.mark.filterwarnings("ignore::gpuvec.FallbackWarning")
def test_a_filter_that_was_asked_before_moves_queries_and_results_alone(items):
    growing = 2 * 4 * 1  # bits of the segment that is still written: its rows may have changed
    for text in (FILTERS[1], FILTERS[3]):
        found(items, text)
        moved = crossed(lambda text=text: found(items, text))
        assert {purpose for _, purpose in moved} <= {"queries", "results", "bits"}
        assert moved.get((transfer.UP, "bits"), 0) <= growing
        assert moved.get((transfer.DOWN, "bits"), 0) == 0
        assert moved[transfer.UP, "queries"] <= QUERIES.nbytes + PLACES


@ON_DEVICE
def test_another_condition_on_columns_that_lie_there_moves_no_scalars_and_no_bits(items):
    found(items, "price < 200")
    moved = crossed(lambda: found(items, "price > 210"))
    assert {purpose for _, purpose in moved} <= {"queries", "results"}


@pytest.mark.filterwarnings("ignore::gpuvec.FallbackWarning")
def test_no_copy_of_a_search_that_was_asked_before_is_larger_than_its_queries_or_answer(
    items, rehearsed
):
    items.insert({"id": [ROWS + 5], "brand": ["a"], "price": [1.0], "extra": [{}],
                  "v": VECTORS[:1]})  # fmt: skip
    items.flush()
    found(items, FILTERS[1])
    up, down = len(rehearsed.copies.to_device), len(rehearsed.copies.to_host)
    found(items, FILTERS[1])
    answer = len(QUERIES) * 6 * (8 + 4)  # row and distance of each neighbour
    assert max(rehearsed.copies.to_device[up:]) <= max(QUERIES.nbytes, PLACES)
    assert max(rehearsed.copies.to_host[down:]) <= answer


@pytest.mark.parametrize("engine", ["no columns"], indirect=True)
def test_masks_of_the_host_go_up_packed_once_for_a_segment_and_a_condition(items):
    with pytest.warns(gv.FallbackWarning, match="a filter with anything runs on the CPU"):
        moved = crossed(lambda: found(items, "price < 200"))
    words = sum(-(-n // 32) for n in (700, 800, 1))
    assert moved[transfer.UP, "bits"] <= 2 * 4 * words  # what is visible, and what passes
    assert not any(purpose == "scalars" for _, purpose in moved)


@ON_DEVICE
def test_of_rows_that_are_still_written_bits_alone_go_up(items):
    found(items, "price < 200")
    items.insert({"id": [ROWS + 7], "brand": ["a"], "price": [1.0], "extra": [{}],
                  "v": VECTORS[:1]})  # fmt: skip
    moved = crossed(lambda: found(items, "price < 200"))
    assert (transfer.UP, "scalars") not in moved
    assert moved[transfer.UP, "bits"] <= 8


@ON_DEVICE
def test_what_a_card_cannot_say_is_named_once(items, recwarn):
    for _ in range(2):
        found(items, 'price < 300 and extra["n"] < 900 and upper(brand) == "BRAND 2"')
    found(items, 'extra["n"] < 3')
    said = [str(w.message) for w in recwarn if isinstance(w.message, gv.FallbackWarning)]
    assert len(said) == 2
    assert "JSON values" in said[0]
    assert "upper()" in said[1]


@ON_DEVICE
def test_reads_that_search_nothing_take_no_columns_to_the_card(items):
    moved = crossed(lambda: items.filter("price < 200").count())
    assert not any(purpose == "scalars" for _, purpose in moved)


QUICK = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@st.composite
def cases(draw):
    fields = draw(strategies.scalar_fields())
    return fields, draw(strategies.conditions(fields)), draw(strategies.tables(fields))


@pytest.mark.filterwarnings("ignore::gpuvec.FallbackWarning")
@pytest.mark.parametrize("engine", [MeaningColumns(), PlainColumns()])
def test_random_conditions_keep_the_same_rows_on_both_devices(rehearsed, engine):
    session = new_session(device="gpu")

    @QUICK
    @given(cases(), st.integers(0, 2**32 - 1))
    def agree(case, seed):
        fields, expr, table = case
        hidden = np.random.default_rng(seed).random(table.num_rows) < 0.7
        rows = Rows(table, {}, tuple(table.column_names))
        view = MemoryView(new_segment_id(), rows, hidden if seed % 2 else None)
        part = segment_part(view, 0, lambda name: table[name], lambda names: None)
        bound = bind_filter(expr, fields)
        wanted = keep_part(bound, part)
        got = keep_part(bound, part, session=session, for_search=True)
        assert got.num_rows == wanted.num_rows
        np.testing.assert_array_equal(got.origin.rows.mask, wanted.origin.rows.mask)
        bits = got.origin.rows.bits(session)
        np.testing.assert_array_equal(bitset.unpack(bits).get(), wanted.origin.rows.mask)

    with columns.using(engine):
        agree()


def test_columns_that_cannot_lie_there_are_tried_once_and_leave_the_rest_to_the_card(
    rehearsed, tmp_path
):
    fallback.forget()
    with columns.using(PlainColumns()), gv.connect(tmp_path / "db", device="gpu") as db:
        schema = {"id": gv.Int64(), "name": gv.String(), "v": gv.Vector(4)}
        items = db.create_collection("items", gv.Schema(schema, primary_key="id"))
        ids = np.arange(200)
        items.insert({"id": ids, "name": [f"n{i}" for i in ids], "v": np.ones((200, 4), "f4")})
        items.flush()

        def ask(text):
            return items.filter(text).search(np.ones(4, "f4"), k=200).to_arrow()["id"].to_pylist()

        with pytest.warns(gv.FallbackWarning, match="texts of a column are distinct"):
            assert ask('id < 50 and name like "%7"') == [7, 17, 27, 37, 47]
        before = transfer.copied()
        assert ask('id < 30 and name like "%8"') == [8, 18, 28]
        after = transfer.copied()
        assert after[transfer.UP, "scalars"] == before[transfer.UP, "scalars"]
        assert after[transfer.UP, "bits"] - before[transfer.UP, "bits"] == 7 * 4


@pytest.mark.filterwarnings("ignore::gpuvec.FallbackWarning")
def test_columns_that_do_not_fit_are_filtered_on_the_host(rehearsed, tmp_path, answers):
    with columns.using(MeaningColumns()), gv.connect(tmp_path / "db", device="gpu") as db:
        items = fill(db)
        with gv.config.set(device__memory_limit=100_000):
            same(found(items, FILTERS[1]), answers[FILTERS[1]])


def test_columns_of_any_chunks_come_as_one_array():
    from gpuvec.query.device_columns import one_array

    parts = pa.chunked_array([[1, 2], [3]], pa.int32())
    assert one_array(parts, pa.int64()).to_pylist() == [1, 2, 3]
    assert one_array(pa.chunked_array([], pa.int32()), pa.int32()).to_pylist() == []
