"""Indexes of GPU libraries under the contract of approximate indexes, on a card.

Where a library, or its way to serve an index, is not installed, its class is skipped.
"""

import ml_dtypes
import numpy as np
import pytest

import gpuvec as gv
from gpuvec.index.devices import installed_engines
from gpuvec.index.spec import CAGRA, IVFPQ, IVFSQ8, Flat, IVFFlat
from gpuvec.testing.approximate_indexes import DeviceIndexTests
from gpuvec.types import Metric

CASES = (
    (Metric.COSINE, np.float32),
    (Metric.L2, np.float16),
    (Metric.IP, np.int8),
    (Metric.SQEUCLIDEAN, ml_dtypes.bfloat16),
)


@pytest.mark.gpu
class OnCard(DeviceIndexTests):
    cases = CASES


class TestCagraByCuvs(OnCard):
    spec = CAGRA()
    engine = "cuvs"


class TestIvfFlatByCuvs(OnCard):
    spec = IVFFlat()
    engine = "cuvs"


class TestIvfSq8ByCuvs(OnCard):
    spec = IVFSQ8()
    engine = "cuvs"


class TestIvfPqByCuvs(OnCard):
    spec = IVFPQ()
    engine = "cuvs"


class TestIvfFlatByFaiss(OnCard):
    spec = IVFFlat()
    engine = "faiss"


class TestIvfSq8ByFaiss(OnCard):
    spec = IVFSQ8()
    engine = "faiss"


class TestIvfPqByFaiss(OnCard):
    spec = IVFPQ()
    engine = "faiss"


class TestScanByCuvs(OnCard):
    spec = Flat()
    engine = "cuvs"
    test_files_make_an_equal_index = None  # it has none
    test_unknown_knobs_are_refused = None
    test_the_spec_is_decided_and_the_bytes_are_counted = None
    test_a_memory_limit_too_small_names_the_parts = None
    test_a_search_that_its_memory_does_not_hold_names_the_parts = None


SPECS = [CAGRA(), IVFFlat(), IVFSQ8(), IVFPQ()]


@pytest.mark.gpu
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.KIND)
def test_an_index_of_a_card_serves_both_devices(spec, tmp_path):
    """Built and measured on the card, searched there and on the CPU, at the recall promised."""
    if not installed_engines(spec):
        pytest.skip(f"nothing here searches {spec} on a card")
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(50, 32))
    rows = (centers[rng.integers(0, 50, 20_000)] + rng.normal(size=(20_000, 32))).astype(np.float32)
    queries = rows[:200] + np.float32(0.01)
    schema = gv.Schema({"id": gv.Int64(), "v": gv.Vector(32, metric="cosine")}, primary_key="id")
    with gv.connect(tmp_path / "db", device="gpu") as db:
        items = db.create_collection("items", schema)
        items.insert({"id": np.arange(20_000), "v": rows})
        items.flush()
        items.create_index("v", spec, recall=0.95)
        check(items, queries)
        (index,) = segment_indexes(items, "v")
        assert index.curve("gpu").engine in installed_engines(spec)
        assert index.curve("cpu") is None
    with gv.connect(tmp_path / "db", device="cpu") as db:
        check(db["items"], queries)  # nothing was measured here, so it scans
        db["items"].tune("v", recall=[0.95])
        check(db["items"], queries)
        (index,) = segment_indexes(db["items"], "v")
        assert index.curve("cpu").points
        assert index.curve("gpu").points


def segment_indexes(items, field):
    with items._source.snapshot() as snapshot:
        return [view.index(field) for view in snapshot]


def check(items, queries):
    """Compare filtered and unfiltered answers with those of the exact scan."""
    for filter, least in ((None, 0.93), ("id % 3 == 0", 0.93), ("id % 200 == 0", 0.93)):
        source = items if filter is None else items.filter(filter)
        wanted, found = (
            source.search(queries, k=10, on="v", exact=exact).to_arrow() for exact in (True, False)
        )
        ids = [np.asarray(t["id"]).reshape(len(queries), -1) for t in (wanted, found)]
        kept = [len(set(a) & set(b)) / len(a) for a, b in zip(*ids, strict=True)]
        assert np.mean(kept) >= least
