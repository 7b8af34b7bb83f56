"""Random tables of indexed and other segments: thorough settings answer as sorting everything does.

With every list probed an inverted file misses nothing, so that masks, bounds between segments,
completion and merging have to be right for the answers to be.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuvec.index.spec import HNSW, IVFSQ8, IVFFlat, IVFInt8
from tests.query.indexed import DIM, flat_curve, hits, indexed_table, shared

pytest.importorskip("faiss")

LISTS = 12
SPECS = {
    "flat": (IVFFlat(n_lists=LISTS), {"n_probes": LISTS}),
    "sq8": (IVFSQ8(n_lists=LISTS), {"n_probes": LISTS, "refine": 50}),
    "int8": (IVFInt8(n_lists=LISTS), {"effort": 1.0}),
}
MIXES = [
    ((900, True),),
    ((900, True), (60, False)),
    ((40, False), (700, True), (300, True), (25, False)),
    ((150, False), (20, True), (800, True)),
    tuple((size, number % 5 == 0) for number, size in enumerate([300, 40, 30, 50, 20, 400, 10])),
]
_TABLES = {}


def table_of(kind, metric, mix, seed):
    """Return a table, made once: builds cost more than searches."""
    key = (kind, metric, mix, seed)
    if key not in _TABLES:
        spec, knobs = SPECS[kind]
        curve = flat_curve([(knobs, 0.999)], ks=(10, 1000))
        _TABLES[key] = indexed_table(
            spec, curve, sizes=MIXES[mix], seed=seed, metric=metric, target=0.9,
            nulls=0.05 * (seed % 2), hidden=0.2 * (seed % 3 == 0),
        )  # fmt: skip
    return _TABLES[key]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(sorted(SPECS)),
    metric=st.sampled_from(["l2", "cosine", "ip"]),
    mix=st.integers(0, len(MIXES) - 1),
    seed=st.integers(0, 3),
    least=st.sampled_from([0.0, 0.3, 0.9, 0.99]),
    k=st.sampled_from([1, 3, 10, 70, 2000]),
    count=st.sampled_from([1, 2, 40]),
    by_params=st.booleans(),
)
def test_thorough_settings_answer_as_sorting_does(
    kind, metric, mix, seed, least, k, count, by_params
):
    table = table_of(kind, metric, mix, seed)
    queries = np.random.default_rng(count).standard_normal((count, DIM)).astype(np.float32)
    options = {"params": SPECS[kind][1]} if by_params else {"recall": 0.9}
    search = table.frame.filter(f"price >= {least}").search(queries, k=k, **options)
    found = hits(search)
    wanted = table.truth(queries, k, table.price >= np.float32(least))
    assert len(found) == len(wanted)
    if kind == "int8":  # its lists are cut by what was learned of the data
        assert shared(found, wanted) >= 0.98
    else:
        assert [hit[2] for hit in found] == [hit[2] for hit in wanted]
    for query in range(count):
        mine = [key for q, _, key in found if q == query]
        assert len(mine) == len(set(mine))


@pytest.mark.slow
@pytest.mark.parametrize("spec", [HNSW(m=16), IVFInt8(), IVFFlat(), IVFSQ8()], ids=str)
def test_threads_that_search_one_table_get_the_answers_of_one(spec):
    from concurrent.futures import ThreadPoolExecutor

    curve = flat_curve([({}, 0.99)])
    table = indexed_table(spec, curve, sizes=((5000, True), (100, False), (4000, True)))
    queries = [np.random.default_rng(s).standard_normal((9, DIM)).astype(np.float32)
               for s in range(40)]  # fmt: skip
    alone = [hits(table.frame.search(q, params={})) for q in queries]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda q: hits(table.frame.search(q, params={})), queries * 3))
    assert together == alone * 3
