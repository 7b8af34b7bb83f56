"""The contract of indexes that may miss rows.

A test class inherits `ApproximateIndexTests` and names `spec`, `cases` and, for slow runs, the
`more_cases` it serves besides. Indexes are made by `registry.build` and `registry.load`, as the
engine makes them; the oracle is `pairwise_distances`.
"""
# ruff: noqa: D102 - a test's name is its rule

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuvec.device.arrays import to_device
from gpuvec.errors import DeviceMemoryError, QueryError
from gpuvec.index import device_build, registry
from gpuvec.index.base import ApproximateIndex, IndexFile, Neighbors
from gpuvec.index.devices import installed_engines
from gpuvec.index.from_host import FromHost
from gpuvec.index.spec import IndexSpec, check_params, spec_from_json
from gpuvec.kernels.pairwise import is_binary, paired_distances, pairwise_distances
from gpuvec.rows import DenseVectors
from gpuvec.testing.indexes import K, VectorIndexTests
from gpuvec.testing.kernels import made_up
from gpuvec.types import Metric

ROWS, WIDTH, ASKED = 2000, 32, 50
KINDS = ("gaussian", "clustered")


def made_up_kind(kind: str, metric: Metric, dtype: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return ASKED queries and ROWS rows that lie around 40 centers, or around one."""
    rng = np.random.default_rng(len(kind))
    total = ASKED + ROWS
    centers = rng.normal(size=(40 if kind == "clustered" else 1, WIDTH))
    values = 2 * centers[rng.integers(0, len(centers), total)] + rng.normal(size=(total, WIDTH))
    if is_binary(metric):
        bits = np.packbits(values + 0.1 * rng.normal(size=values.shape) > 0, axis=1)
        return bits[:ASKED], bits[ASKED:]
    rows = 10 * values[ASKED:]
    rows = (np.abs(rows) if dtype == np.uint8 else rows).astype(dtype)
    queries = 10 * values[:ASKED].astype(np.float32)
    return (np.abs(queries) if dtype == np.uint8 else queries), rows


def file_on_disk(path: Path) -> IndexFile:
    """Return a file as a store in a local directory gives it: mapped, with its path."""
    data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
    return IndexFile(data=data, path=str(path))


def file_in_memory(path: Path) -> IndexFile:
    """Return a file as a remote store gives it: its bytes."""
    data = np.frombuffer(path.read_bytes(), np.uint8)
    return IndexFile(data=data, path=None)


def recall_of(found: Neighbors, distances: NDArray[np.float32], k: int) -> float:
    """Return the share of the k nearest that was found; any row as near as the k-th counts."""
    limit = np.sort(distances, axis=1)[:, k - 1 : k]
    return float(((found.rows >= 0) & (found.distances <= limit)).sum() / (len(distances) * k))


class ApproximateIndexTests(VectorIndexTests):
    """Rules of `ApproximateIndex`, besides those of every index."""

    spec: IndexSpec
    many = 500  # rows of tests whose answers an index, not a scan, should give
    cases: ClassVar[Sequence[tuple[Metric, Any]]] = ()  # (metric, dtype) that the index serves
    more_cases: ClassVar[Sequence[tuple[Metric, Any]]] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if {"metric", "dtype"} <= set(metafunc.fixturenames):
            more = [case for case in self.more_cases if case not in self.cases]
            params = [
                pytest.param(
                    *case,
                    marks=[pytest.mark.slow] if case in more else [],
                    id=f"{case[0]}-{np.dtype(case[1]).name}",
                )
                for case in (*self.cases, *more)
            ]
            metafunc.parametrize(("metric", "dtype"), params)

    @pytest.fixture
    def xp(self) -> Any:
        return np

    @pytest.fixture
    def build(self) -> Any:
        def make(
            vectors: NDArray[Any], metric: Metric, valid: Any = None, **options: Any
        ) -> ApproximateIndex:
            frozen = vectors.view()
            frozen.flags.writeable = False
            options = {"threads": 1, **options}
            return registry.build(self.spec, DenseVectors(frozen, valid), metric, **options)

        return make

    def most(self, index: ApproximateIndex, k: int = K) -> dict[str, float]:
        """Return the most thorough setting."""
        return dict(index.settings(k)[-1])

    def test_distances_are_final_and_ties_in_order(
        self, build: Any, metric: Metric, dtype: Any
    ) -> None:
        queries, rows = made_up(metric, dtype, 600, 24)
        rows[300:400] = rows[0]
        queries[0] = rows[0]
        rank = np.random.default_rng(1).permutation(len(rows))
        index = build(rows, metric)
        for k in (1, K, 150):
            found = index.search(queries, k, params=self.most(index, k), tie_rank=rank)
            owner, place = np.nonzero(found.rows >= 0)
            got = found.rows[owner, place]
            final = paired_distances(queries, rows, owner, got, metric)
            np.testing.assert_array_equal(found.distances[owner, place], final)
            order = np.lexsort((rank[got], final, owner))
            np.testing.assert_array_equal(order, np.arange(len(order)))
            assert len(np.unique(np.stack([owner, got]), axis=1).T) == len(got)

    @pytest.mark.parametrize("mask", ["random", "near", "far", "none", "one", "all"])
    def test_a_mask_holds_for_every_setting(
        self, build: Any, metric: Metric, dtype: Any, mask: str
    ) -> None:
        queries, rows = made_up(metric, dtype, self.many, 24)
        distances = pairwise_distances(queries, rows, metric)[0]
        middle = np.median(distances)
        keep = {
            "random": np.random.default_rng(0).random(self.many) < 0.3,
            "near": distances <= middle,
            "far": distances >= middle,
            "none": np.zeros(self.many, bool),
            "one": np.arange(self.many) == self.many - 1,
            "all": np.ones(self.many, bool),
        }[mask]
        index = build(rows, metric)
        for params in [None, *index.settings(K)]:
            found = index.search(queries, K, params=params, keep=keep)
            assert set(found.rows.ravel()) - {-1} <= set(np.flatnonzero(keep))
            assert np.isposinf(found.distances[found.rows < 0]).all()
            if mask == "all":
                plain = index.search(queries, K, params=params)
                np.testing.assert_array_equal(found.rows, plain.rows)

    def test_null_vectors_shift_nobody(self, build: Any, metric: Metric, dtype: Any) -> None:
        queries, rows = made_up(metric, dtype, self.many, 24)
        valid = np.random.default_rng(3).random(self.many) < 0.6
        rows[~valid] = 0
        keep = np.arange(self.many) % 2 == 0
        index = build(rows, metric, valid)
        assert index.num_rows == self.many
        distances = pairwise_distances(queries, rows, metric)
        for mask in (None, keep):
            wanted = valid if mask is None else valid & mask
            found = index.search(queries, K, params=self.most(index), keep=mask)
            assert set(found.rows.ravel()) - {-1} <= set(np.flatnonzero(wanted))
            left = np.where(wanted, distances, np.inf).astype(np.float32)
            assert recall_of(found, left, K) > 0.9

    @pytest.mark.parametrize("count", [0, 1, 2, 37])
    def test_few_rows_are_all_found(
        self, build: Any, metric: Metric, dtype: Any, count: int
    ) -> None:
        queries, rows = made_up(metric, dtype, 40, 24)
        index = build(rows[:count], metric)
        k = count + 3
        found = index.search(queries, k, params=self.most(index, k))
        assert found.rows.shape == (5, k)
        np.testing.assert_array_equal(
            np.sort(found.rows, axis=1), np.tile([-1, -1, -1, *range(count)], (5, 1))
        )

    def test_rows_that_are_all_null_are_no_rows(
        self, build: Any, metric: Metric, dtype: Any
    ) -> None:
        queries, rows = made_up(metric, dtype, 40, 24)
        index = build(np.zeros_like(rows), metric, np.zeros(40, bool))
        assert (index.search(queries, K).rows == -1).all()

    def test_equal_rows_fill_an_answer(self, build: Any, metric: Metric, dtype: Any) -> None:
        queries, rows = made_up(metric, dtype, 300, 24)
        rows[:] = rows[0]
        index = build(rows, metric)
        found = index.search(queries, K, params=self.most(index))
        assert (found.rows >= 0).all()
        assert all(len(set(row)) == K for row in found.rows)

    @pytest.mark.parametrize("kind", KINDS)
    def test_settings_rise_to_a_thorough_one(
        self, build: Any, metric: Metric, dtype: Any, kind: str
    ) -> None:
        queries, rows = made_up_kind(kind, metric, dtype)
        distances = pairwise_distances(queries, rows, metric)
        index = build(rows, metric)
        settings = index.settings(K)
        assert len({tuple(sorted(params.items())) for params in settings}) == len(settings)
        recalls = []
        for params in settings:
            check_params(self.spec, params)
            recalls.append(recall_of(index.search(queries, K, params=params), distances, K))
        assert recalls[-1] >= 0.95
        assert max(recalls) - recalls[-1] < 0.01
        assert len(recalls) == 1 or recalls[0] <= recalls[-1]

    def test_settings_fit_any_k(self, build: Any, metric: Metric, dtype: Any) -> None:
        queries, rows = made_up(metric, dtype, 300, 24)
        index = build(rows, metric)
        for k in (1, 100, 299, 5000):
            for params in index.settings(k):
                check_params(self.spec, params)
            found = index.search(queries, k, params=self.most(index, k))
            assert (found.rows[:, : min(k, 270)] >= 0).all()

    @pytest.mark.parametrize("opened", [file_on_disk, file_in_memory])
    def test_files_make_an_equal_index(
        self, build: Any, metric: Metric, dtype: Any, opened: Any, tmp_path: Path
    ) -> None:
        queries, rows = made_up(metric, dtype, 700, 24)
        valid = np.arange(700) % 11 > 0
        held_out = np.array([4, 17, 300])
        index = build(rows, metric, valid, held_out=held_out)
        index.complete()
        for name, parts in index.files().items():
            (tmp_path / name).write_bytes(b"".join(bytes(part) for part in parts))
        files = {path.name: opened(path) for path in tmp_path.iterdir()}
        spec = spec_from_json(index.spec.to_json())
        loaded = registry.load(spec, DenseVectors(rows, valid), metric, files)
        assert (loaded.spec, loaded.metric, loaded.num_rows) == (index.spec, metric, 700)
        keep = np.arange(700) % 3 > 0
        for params in [None, *index.settings(K)]:
            for mask in (None, keep):
                wanted = index.search(queries, K, params=params, keep=mask, threads=1)
                found = loaded.search(queries, K, params=params, keep=mask, threads=1)
                np.testing.assert_array_equal(found.rows, wanted.rows)
                np.testing.assert_array_equal(found.distances, wanted.distances)

    def test_rows_held_out_are_found_once_complete(
        self, build: Any, metric: Metric, dtype: Any
    ) -> None:
        queries, rows = made_up_kind("gaussian", metric, dtype)
        valid = np.arange(ROWS) % 7 > 0
        held_out = np.flatnonzero(valid)[5::40]
        index = build(rows, metric, valid, held_out=held_out)
        before = index.search(queries, 100, params=self.most(index, 100))
        assert not set(before.rows.ravel()) & set(held_out)
        index.complete()
        asked = rows[held_out] if is_binary(metric) else rows[held_out].astype(np.float32)
        after = index.search(asked, K, params=self.most(index))
        valid_distances = np.where(valid, pairwise_distances(asked, rows, metric), np.inf)
        assert recall_of(after, valid_distances.astype(np.float32), K) >= 0.9
        if metric is not Metric.IP:
            assert np.mean((after.rows == held_out[:, None]).any(axis=1)) >= 0.95

    def test_the_other_rows_are_found_before_it_is_complete(
        self, build: Any, metric: Metric, dtype: Any
    ) -> None:
        queries, rows = made_up_kind("gaussian", metric, dtype)
        held_out = np.arange(5, ROWS, 40)
        index = build(rows, metric, held_out=held_out)
        found = index.search(queries, K, params=self.most(index))
        others = pairwise_distances(queries, rows, metric)
        others[:, held_out] = np.inf
        assert recall_of(found, others, K) >= 0.9

    def test_a_bound_costs_no_near_row(self, build: Any, metric: Metric, dtype: Any) -> None:
        queries, rows = made_up_kind("clustered", metric, dtype)
        distances = pairwise_distances(queries, rows, metric)
        bound = np.sort(distances, axis=1)[:, K - 1]
        index = build(rows, metric)
        found = index.search(queries, K, params=self.most(index), bound=bound)
        assert recall_of(found, distances, K) >= 0.93

    def test_the_same_call_gets_the_same_answer(
        self, build: Any, metric: Metric, dtype: Any
    ) -> None:
        queries, rows = made_up_kind("clustered", metric, dtype)
        first, second = (build(rows, metric, threads=1) for _ in range(2))
        for params in (None, first.settings(K)[0]):
            wanted = first.search(queries, K, params=params, threads=1)
            for index in (first, second):
                found = index.search(queries, K, params=params, threads=1)
                np.testing.assert_array_equal(found.rows, wanted.rows)

    def test_threads_do_not_disturb_one_another(
        self, build: Any, metric: Metric, dtype: Any
    ) -> None:
        queries, rows = made_up_kind("gaussian", metric, dtype)
        index = build(rows, metric)
        masks = [None, *(np.random.default_rng(n).random(ROWS) < 0.5 for n in range(3))]
        settings = [None, *index.settings(K)[:2]]
        calls = [
            {"keep": mask, "params": params, "threads": 1} for mask in masks for params in settings
        ]
        wanted = [index.search(queries, K, **call).rows for call in calls]
        with ThreadPoolExecutor(4) as pool:
            again = list(pool.map(lambda call: index.search(queries, K, **call).rows, calls * 3))
        for found, right in zip(again, wanted * 3, strict=True):
            np.testing.assert_array_equal(found, right)

    def test_the_spec_is_decided_and_the_bytes_are_counted(
        self, build: Any, metric: Metric, dtype: Any
    ) -> None:
        _, rows = made_up_kind("gaussian", metric, dtype)
        index = build(rows, metric)
        assert None not in index.spec.to_json().values()
        assert index.spec.KIND == self.spec.KIND
        stored = sum(memoryview(part).nbytes for f in index.files().values() for part in f)
        assert 0.5 * stored <= index.nbytes <= 2 * stored + 4096
        parts = registry.build_bytes(self.spec, ROWS, DenseVectors(rows))
        assert all(type(size) is int and size >= 0 for size in parts.values())
        assert parts["index"] >= 0.8 * index.nbytes

    def test_a_search_that_its_memory_does_not_hold_names_the_parts(
        self, build: Any, metric: Metric, dtype: Any
    ) -> None:
        queries, rows = made_up_kind("gaussian", metric, dtype)
        index = build(rows, metric)
        for some in (queries, queries[:1]):
            with pytest.raises(DeviceMemoryError) as caught:
                index.search(some, 5, memory_limit=500)
            assert caught.value.code == "GV-403"
            assert sum(caught.value.details["parts"].values()) > 500

    def test_a_memory_limit_too_small_names_the_parts(
        self, build: Any, metric: Metric, dtype: Any
    ) -> None:
        _, rows = made_up_kind("gaussian", metric, dtype)
        with pytest.raises(DeviceMemoryError, match="index") as caught:
            build(rows, metric, memory_limit=1000)
        assert caught.value.code == "GV-401"
        assert "index" in caught.value.details["parts"]
        assert caught.value.details["limit"] == 1000

    def test_unknown_knobs_are_refused(self, build: Any) -> None:
        queries, rows = self.case()
        index = build(rows, self.metric)
        name, (_, most) = next(iter(self.spec.SEARCH.items()))
        for params in ({"efort": 3}, {name: most + 1}, {name: "much"}, {name: -1}):
            with pytest.raises(QueryError) as caught:
                index.search(queries, K, params=params)
            assert caught.value.code == "GV-318"

    def test_metrics_of_other_vectors_are_refused(self, build: Any) -> None:
        _, rows = self.case()
        with pytest.raises(QueryError) as caught:
            build(rows.astype(np.float32), Metric.HAMMING)
        assert caught.value.code == "GV-312"


class DeviceIndexTests(ApproximateIndexTests):
    """The same rules on a device, which may add up in another order each time.

    Rows are many enough for an engine to be asked. Files are those of the host.

    Attributes:
        engine: by its name; without it, tests are skipped.
    """

    many = 3000
    engine = ""

    @pytest.fixture
    def build(self) -> Any:
        def make(vectors: NDArray[Any], metric: Metric, valid: Any = None, **options: Any) -> Any:
            if self.engine not in installed_engines(self.spec):
                pytest.skip(f"{self.engine} cannot search {self.spec} here")
            rows = DenseVectors(to_device(vectors, "vectors"), valid)
            options = {"threads": 1, "engine": self.engine, **options}
            return FromHost(device_build.build(self.spec, rows, metric, **options))

        return make

    def test_an_engine_answers_and_says_so(self, build: Any, metric: Metric, dtype: Any) -> None:
        queries, rows = made_up_kind("gaussian", metric, dtype)
        index = build(rows, metric)
        index.search(queries, K)
        assert index.last_stats.strategy == f"{self.spec.KIND} by {index.engine.name}"

    @pytest.mark.parametrize("opened", [file_on_disk, file_in_memory])
    def test_files_make_an_equal_index(
        self, build: Any, metric: Metric, dtype: Any, opened: Any, tmp_path: Path
    ) -> None:
        queries, rows = made_up_kind("gaussian", metric, dtype)
        valid = np.arange(ROWS) % 11 > 0
        index = build(rows, metric, valid, held_out=np.array([4, 17, 300]))
        index.complete()
        for name, parts in index.files().items():
            (tmp_path / name).write_bytes(b"".join(bytes(part) for part in parts))
        files = {path.name: opened(path) for path in tmp_path.iterdir()}
        spec = spec_from_json(index.spec.to_json())
        distances = np.where(valid, pairwise_distances(queries, rows, metric), np.inf)
        loaded: Any
        for values in (rows, to_device(rows, "vectors")):
            loaded = registry.load(spec, DenseVectors(values, valid), metric, files)
            face = loaded if values is rows else FromHost(loaded)
            found = face.search(queries, K, params=self.most(index))
            assert recall_of(found, distances.astype(np.float32), K) >= 0.9
            assert (loaded.spec, loaded.num_rows) == (index.spec, ROWS)

    def test_the_same_call_gets_the_same_answer(
        self, build: Any, metric: Metric, dtype: Any
    ) -> None:
        queries, rows = made_up_kind("clustered", metric, dtype)
        index = build(rows, metric)
        wanted = index.search(queries, K, params=self.most(index)).rows
        np.testing.assert_array_equal(
            index.search(queries, K, params=self.most(index)).rows, wanted
        )

    def test_threads_do_not_disturb_one_another(
        self, build: Any, metric: Metric, dtype: Any
    ) -> None:
        queries, rows = made_up_kind("gaussian", metric, dtype)
        index = build(rows, metric)
        masks = [None, *(np.random.default_rng(n).random(ROWS) < 0.5 for n in range(3))]
        distances = pairwise_distances(queries, rows, metric)

        def ask(mask: Any) -> float:
            found = index.search(queries, K, keep=mask, params=self.most(index))
            left = distances if mask is None else np.where(mask, distances, np.inf)
            return recall_of(found, left.astype(np.float32), K)

        with ThreadPoolExecutor(4) as pool:
            assert min(pool.map(ask, masks * 3)) >= 0.9
