"""Plans cut into blocks: the blocks' answers, one after the other, are the answer of the whole."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuvec as gv
from gpuvec.query.collect import collect_rows
from gpuvec.query.cut import Block, cut, driver_of, driver_rows, first_numbers
from gpuvec.query.session import new_session

c = gv.col
SESSION = new_session(1 << 30)
RNG = np.random.default_rng(9)
ROWS = gv.frame(
    {
        "id": np.arange(80),
        "kind": [f"k{n % 4}" for n in range(80)],
        "v": RNG.integers(-2, 3, (80, 3)).astype(np.float32),
    },
    primary_key="id",
)
ASKED = gv.frame(
    {
        "name": [f"q{n}" for n in range(40)],
        "level": np.arange(40) % 5,
        "w": RNG.integers(-2, 3, (40, 3)).astype(np.float32),
    }
)
Q = RNG.integers(-2, 3, (33, 3)).astype(np.float32)

SHAPES = [
    lambda: ROWS.search(Q, k=3),
    lambda: ROWS.search(Q, k=3).filter(c("distance") < 0.4).select("query_id", "id"),
    lambda: ROWS.search(ASKED, k=3),
    lambda: ROWS.search(ASKED.filter("level != 2"), k=3),
    lambda: ROWS.search(ASKED.filter("level != 2").with_columns(x=c("level") + 1), k=2),
    lambda: ROWS.search(ASKED, k=3, query_id="name"),
    lambda: ROWS.search(ASKED.limit(30).filter("level > 0"), k=2),
    lambda: ROWS.search(ASKED.sample(20, seed=1), k=2),
    lambda: ROWS.search(ASKED, k=8).group_by("query_id", "kind").head(1),
    lambda: ROWS.search(Q, k=8).group_by("query_id", "kind").agg(n=gv.count()),
    lambda: ROWS.search(Q, k=1, group_by="kind", group_size=2),
    lambda: ROWS.filter("id % 3 == 0").with_columns(y=c("id") * 2),
]


def no_collection(_):
    return False


def answer(plan):
    rows, _ = collect_rows(plan, SESSION)
    return rows.table


@settings(max_examples=60, deadline=None)
@given(shape=st.sampled_from(range(len(SHAPES))), size=st.integers(1, 50))
def test_the_blocks_together_are_the_whole(shape, size):
    plan = SHAPES[shape]().plan
    driver = driver_of(plan, no_collection)
    assert driver is not None
    total = driver_rows(driver, SESSION)
    blocks = [
        Block(start=start, stop=min(start + size, total), first=start)
        for start in range(0, total, size)
    ]
    if driver.numbered:
        firsts = first_numbers(plan, blocks, SESSION)
        blocks = [
            Block(start=b.start, stop=b.stop, first=f) for b, f in zip(blocks, firsts, strict=True)
        ]
    found = pa.concat_tables([answer(cut(plan, block)) for block in blocks])
    assert found.combine_chunks().equals(answer(plan).combine_chunks())


WHOLE = {
    "sorted": lambda: ROWS.search(Q, k=3).sort("distance"),
    "limited": lambda: ROWS.search(Q, k=3).limit(5),
    "grouped across queries": lambda: ROWS.search(Q, k=3).group_by("kind").agg(n=gv.count()),
    "ids that may come twice": lambda: (
        ROWS.search(ASKED, k=3, query_id="level").group_by("query_id").head(1)
    ),
    "distinct": lambda: ROWS.distinct("kind"),
}


@pytest.mark.parametrize("shape", WHOLE.values(), ids=WHOLE)
def test_what_looks_at_several_queries_is_not_cut(shape):
    assert driver_of(shape().plan, no_collection) is None


def test_queries_numbered_by_their_place_in_a_collection_are_not_cut():
    plan = ROWS.search(ASKED, k=3).plan
    assert driver_of(plan, lambda _: True) is None


def test_queries_drawn_from_a_collection_are_not_cut_by_place():
    plan = ROWS.search(ROWS.sample(9, seed=1), k=3).plan
    assert driver_of(plan, lambda _: True) is None
    assert driver_of(ROWS.search(ROWS.get([1, 2]), k=3).plan, lambda _: True) is not None
