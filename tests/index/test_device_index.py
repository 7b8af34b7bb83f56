"""Indexes on a device, as far as they go without one: all but the libraries themselves.

The engine here is no imitation of a library: it measures every node as an engine would see it. What
is tested is what `DeviceIndex` makes of an engine's answers, and of what it cannot do.
"""

import numpy as np
import pytest

import gpuvec as gv
from gpuvec.device.arrays import array_namespace, as_float32, to_device, to_host
from gpuvec.device.residency import device_store
from gpuvec.device.rows import device_rows
from gpuvec.errors import UnsupportedError
from gpuvec.index import device_build, registry
from gpuvec.index.auto import build_best, candidates
from gpuvec.index.curve import RecallCurve
from gpuvec.index.cuvs_cagra import whole_graph
from gpuvec.index.device_centers import DeviceCenters
from gpuvec.index.device_index import DeviceIndex
from gpuvec.index.device_space import device_space
from gpuvec.index.devices import ENGINES, why_not_on_device
from gpuvec.index.faiss_centers import train_centers
from gpuvec.index.faiss_ivf import codec_of
from gpuvec.index.faiss_lists import ListsBuild
from gpuvec.index.faiss_space import space_of
from gpuvec.index.from_host import FromHost
from gpuvec.index.measure import measure_curve
from gpuvec.index.spec import CAGRA, HNSW, IVFPQ, IVFSQ8, SPECS, IVFFlat, IVFInt8, IVFRaBitQ
from gpuvec.kernels.bitset import unpack
from gpuvec.kernels.pairwise import is_binary, pairwise_distances
from gpuvec.kernels.select_k import select_k
from gpuvec.rows import DenseVectors
from gpuvec.testing.approximate_indexes import DeviceIndexTests, made_up_kind, recall_of
from gpuvec.testing.kernels import CASES
from gpuvec.types import Metric

pytestmark = pytest.mark.usefixtures("rehearsed")
DENSE = tuple(case for case in CASES if not is_binary(case[0]))


class Measured:
    """An engine that measures every node at half precision.

    Args:
        sees_masks: see `Engine`.
        by_rows: see `Engine`.
        most: see `Engine`.
    """

    name = "measuring"
    least_nodes = 1

    def __init__(self, *, sees_masks=True, by_rows=False, most=3000):
        self.sees_masks, self.by_rows, self.most = sees_masks, by_rows, most
        self.asked = []

    def size_bytes(self, nodes, width):
        return 2 * nodes * width

    def making_bytes(self, nodes, width):
        return 0

    def make(self, nodes):
        return Finder(self, nodes)


class Finder:
    def __init__(self, engine, nodes):
        self._engine, self._nodes, self._space = engine, nodes, nodes.space
        self._rows = nodes.seen(0, nodes.count)

    def find(self, queries, count, knobs, keep):
        assert keep is None or self._engine.sees_masks
        self._engine.asked.append(count)
        xp = array_namespace(queries)
        metric = Metric.IP if self._space.product else Metric.SQEUCLIDEAN
        seen = as_float32(self._space.queries(queries))
        distances = pairwise_distances(seen, self._rows, metric)
        places = self._nodes.places
        if keep is not None:
            mask = unpack(keep)
            mask = mask[places] if self._engine.by_rows and places is not None else mask
            distances = xp.where(mask[None, :], distances, xp.float32(xp.inf))
        found = select_k(distances, count)
        nodes = xp.where(xp.isfinite(found.distances), found.rows, -1)
        if self._engine.by_rows and places is not None:
            return xp.where(nodes < 0, -1, places[xp.maximum(nodes, 0)])
        return nodes


def index_of(vectors, metric, valid=None, *, held_out=None, engine=None, threads=0):
    """Return an index over rows on the rehearsed card."""
    late = None if held_out is None else np.asarray(held_out)
    return DeviceIndex(
        CAGRA(),
        DenseVectors(to_device(vectors, "vectors"), valid),
        metric,
        engine or Measured(),
        late=late,
        plan=lambda k, params: ({"itopk_size": 64, **params}, k + 8),
        settings=lambda k: [{"itopk_size": 32}, {"itopk_size": 64}],
        complete=None if late is None else Measured,
        files=dict,
        nbytes=0,
    )


class DeviceIndexContract(DeviceIndexTests):
    spec = CAGRA()
    cases = (
        (Metric.COSINE, np.float32),
        (Metric.L2, np.float16),
        (Metric.IP, np.int8),
    )
    more_cases = DENSE

    def engine(self):
        return Measured()

    @pytest.fixture
    def build(self):
        def make(vectors, metric, valid=None, **options):
            return FromHost(index_of(vectors, metric, valid, engine=self.engine(), **options))

        return make

    test_files_make_an_equal_index = None  # this engine has none
    test_the_spec_is_decided_and_the_bytes_are_counted = None
    test_a_memory_limit_too_small_names_the_parts = None
    test_a_search_that_its_memory_does_not_hold_names_the_parts = None
    test_metrics_of_other_vectors_are_refused = None  # which is for who builds to see to


class TestEngineThatSeesMasks(DeviceIndexContract):
    pass


class TestEngineThatSeesNoMasks(DeviceIndexContract):
    cases = ((Metric.L2, np.float32),)

    def engine(self):
        return Measured(sees_masks=False)


class TestEngineThatNumbersRows(DeviceIndexContract):
    cases = ((Metric.COSINE, np.float32),)

    def engine(self):
        return Measured(by_rows=True)


def case(metric=Metric.L2, dtype=np.float32):
    queries, rows = made_up_kind("clustered", metric, dtype)
    return queries, rows, pairwise_distances(queries, rows, metric)


def test_what_an_engine_cannot_do_is_scanned():
    queries, rows, distances = case()
    engine = Measured(sees_masks=False, most=60)
    index = FromHost(index_of(rows, Metric.L2, engine=engine))
    for k, keep, scanned in [
        (10, None, False),
        (55, None, True),
        (10, np.arange(len(rows)) % 2 == 0, False),
        (10, np.arange(len(rows)) % 50 == 0, True),
    ]:
        engine.asked.clear()
        found = index.search(queries, k, keep=keep)
        assert (not engine.asked) == scanned
        assert (index.last_stats.strategy == "cagra by measuring") != scanned
        left = distances if keep is None else np.where(keep, distances, np.inf)
        assert recall_of(found, left.astype(np.float32), k) >= 0.99


def test_a_card_without_room_for_the_index_scans():
    queries, rows, distances = case()

    class Large(Measured):
        def size_bytes(self, nodes, width):
            return 1 << 50

    store_rows = device_rows(to_device(rows, "vectors"))
    index = FromHost(index_of(rows, Metric.L2, engine=Large()))
    index._index._rows = NoRoom(store_rows)
    found = index.search(queries, 10)
    assert index.last_stats.strategy != "cagra by measuring"
    assert recall_of(found, distances, 10) == 1.0


class NoRoom:
    """Rows on a card that has no room for anything else."""

    def __init__(self, rows):
        self._rows = rows

    def __getattr__(self, name):
        return getattr(self._rows, name)

    def derived(self, what, size_bytes, make):
        import contextlib

        return contextlib.nullcontext(None)


@pytest.mark.parametrize("metric", [Metric.L2, Metric.IP, Metric.COSINE])
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_half_precision_loses_no_order_wherever_rows_lie(metric, offset, size):
    rng = np.random.default_rng(0)
    rows = ((rng.normal(size=(2000, 24)) + offset) * size).astype(np.float32)
    queries = ((rng.normal(size=(20, 24)) + offset) * size).astype(np.float32)
    if metric is Metric.IP:
        queries = rng.normal(size=(20, 24)).astype(np.float32)
    with device_rows(to_device(rows)).held() as held:
        space = device_space(held, to_device(rows), metric)
        seen, asked = space.rows(to_device(rows)), space.queries(to_device(queries))
    found = pairwise_distances(
        as_float32(asked), seen, Metric.IP if space.product else Metric.SQEUCLIDEAN
    )
    near = np.argsort(to_host(found), axis=1)[:, :40]
    wanted = np.argsort(pairwise_distances(queries, rows, metric), axis=1)[:, :10]
    kept = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(wanted, near, strict=True)])
    assert kept >= (0.97 if offset == 0 or metric is not Metric.COSINE else 0.9)


def test_centers_of_a_device_are_as_good_as_the_hosts():
    rng = np.random.default_rng(0)
    sample = (rng.normal(size=(20, 16))[rng.integers(0, 20, 2000)] * 5).astype(np.float32)
    sample += rng.normal(size=sample.shape).astype(np.float32)
    device = DeviceCenters()
    ours, theirs = (
        device.train(sample, 30, unit=False),
        train_centers(sample, 30, unit=False, threads=1),
    )
    assert ours.shape == theirs.shape == (30, 16)
    assert np.isfinite(ours).all()
    spread = [
        pairwise_distances(sample, c, Metric.SQEUCLIDEAN).min(axis=1).mean() for c in (ours, theirs)
    ]
    assert spread[0] <= 1.5 * spread[1]
    distances = pairwise_distances(sample, ours, Metric.SQEUCLIDEAN)
    np.testing.assert_array_equal(device.assign(sample, ours), distances.argmin(axis=1))
    np.testing.assert_array_equal(device.train(sample, 30, unit=False), ours)
    lengths = np.linalg.norm(device.train(sample, 30, unit=True), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)


@pytest.mark.parametrize("spec", [IVFFlat(), IVFSQ8(), IVFPQ(pq_bits=8), IVFRaBitQ()], ids=str)
def test_lists_with_centers_of_a_device_are_searched_on_the_host(spec, tmp_path):
    from gpuvec.testing.approximate_indexes import file_on_disk

    queries, rows, distances = case()
    vectors = DenseVectors(rows, np.arange(len(rows)) % 9 > 0)
    codec = codec_of(spec, space_of(vectors, Metric.L2, share=False), rows.shape[1])
    work = ListsBuild(spec, vectors, codec, None, 1, centers=DeviceCenters())
    (tmp_path / "lists.faiss").write_bytes(bytes(work.finish()))
    for name, parts in codec.files().items():
        (tmp_path / name).write_bytes(b"".join(bytes(part) for part in parts))
    files = {path.name: file_on_disk(path) for path in tmp_path.iterdir()}
    index = registry.load(work.spec, vectors, Metric.L2, files)
    found = index.search(queries, 10, params=dict(index.settings(10)[-1]))
    left = np.where(vectors.valid, distances, np.inf).astype(np.float32)
    assert recall_of(found, left, 10) >= 0.97


def test_gaps_of_a_graph_become_edges_to_rows_all_over():
    edges = np.full((1000, 8), -1, np.int32)
    edges[:, :3] = np.arange(3)
    xp = array_namespace(to_device(edges))
    whole = to_host(whole_graph(edges, xp))
    assert whole.dtype == np.uint32
    np.testing.assert_array_equal(whole[:, :3], edges[:, :3])
    others = whole[:, 3:]
    assert others.max() < 1000
    assert len(np.unique(others)) > 900
    np.testing.assert_array_equal(to_host(whole_graph(edges, xp)), whole)


@pytest.mark.parametrize("kind", [kind for kind, spec in SPECS.items() if not spec.SCALAR])
def test_every_index_says_whether_a_device_can_search_it(kind):
    spec = SPECS[kind]()
    said = why_not_on_device(spec)
    if kind in ENGINES:
        assert said == "" or "not installed" in said
    else:
        assert "on the CPU only" in said
    assert "packed bits" in why_not_on_device(spec, Metric.HAMMING)


@pytest.mark.parametrize("spec", [HNSW(), IVFInt8()], ids=str)
def test_what_no_engine_serves_is_refused(spec):
    _, rows, _ = case()
    with pytest.raises(UnsupportedError, match="cannot be searched on the GPU") as caught:
        registry.build(spec, DenseVectors(to_device(rows)), Metric.L2)
    assert caught.value.code == "GV-915"


def test_no_engine_serves_packed_vectors():
    rows = np.zeros((9, 4), np.uint8)
    with pytest.raises(UnsupportedError, match="cannot serve metric"):
        device_build.build(IVFFlat(), DenseVectors(to_device(rows)), Metric.HAMMING)


def test_a_device_is_measured_as_it_is_asked():
    """Questions come from the host and answers go there; what is found is what a host would say."""
    _, rows, _ = case()
    held_out = np.arange(0, len(rows), 20)
    index = index_of(rows, Metric.L2, held_out=held_out)
    vectors = DenseVectors(rows)
    exact = registry.exact(DenseVectors(to_device(rows)), Metric.L2)
    curve = measure_curve(index, exact, vectors, Metric.L2, held_out=held_out, ks=(10,))
    assert (curve.device, curve.engine) == ("gpu", "measuring")
    assert RecallCurve.from_json(curve.to_json()) == curve
    found = curve.best(10, 0.95)
    assert found is not None
    assert found.recall == 1.0
    assert {point.case for point in curve.points} == {"all", "random", "clustered"}


def test_without_a_library_an_index_is_built_and_measured_on_the_host(rehearsed):
    _, rows, _ = case()
    store = device_store()
    built = build_best(IVFFlat(), DenseVectors(rows), Metric.L2, recall=0.9, store=store)
    assert built.curve.device == "cpu"
    assert built.best is not None
    assert rehearsed.copies.to_device == []


def test_auto_considers_what_the_device_can_search():
    vectors = DenseVectors(np.zeros((6000, 4), np.float32))
    assert candidates(vectors, Metric.L2, device="gpu") == []  # nothing is installed here
    assert [spec.KIND for spec in candidates(vectors, Metric.L2)] == ["ivf_int8", "hnsw"]


def test_an_index_that_the_device_cannot_search_says_why(tmp_path):
    _, rows, _ = case()
    schema = gv.Schema({"id": gv.Int64(), "v": gv.Vector(32, metric="l2")}, primary_key="id")
    with gv.connect(tmp_path / "db", device="gpu") as db:
        items = db.create_collection("items", schema)
        items.insert({"id": np.arange(len(rows)), "v": rows})
        items.flush()
        items.create_index("v", HNSW(m=4, ef_construction=8))
        told = str(items.search(rows[:3], k=2, on="v").explain())
        assert "HNSW is searched on the CPU only" in told
        assert items.search(rows[:3], k=1, on="v").to_arrow()["id"].to_pylist() == [0, 1, 2]
