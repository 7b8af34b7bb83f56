"""Other libraries behind one face, each with the settings under which it is fastest.

A system is built over float32 rows of length 1 and asked by inner product. This module needs NumPy
and the library that is asked for, so that a library can live in an environment of its own.
"""

import importlib
import importlib.metadata
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

K = 10
Setting = dict[str, Any]


class System:
    """What the worker asks of a library.

    Attributes:
        name: as tables and pictures print it.
        package: whose version is recorded.
        masks: whether it can search under a mask.
        rebuilt: built anew in each process instead of saved.
        data: folder of the data set, while building.
        folder: of the index, while building.
        mask: name of the mask of the search that runs.
    """

    name = ""
    package = ""
    masks = False
    rebuilt = False
    data: Path
    folder: Path
    mask: str | None = None

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def version(self) -> str:
        return importlib.metadata.version(self.package)

    def warm(self, rows: np.ndarray) -> None:
        """Do what is done once in an installation, such as compiling, before times are taken."""

    def build(self, rows: np.ndarray) -> None:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write the index; its files' bytes are what it takes on disk."""
        raise NotImplementedError

    def load(self, folder: Path, rows: np.ndarray) -> None:
        raise NotImplementedError

    def settings(self) -> Sequence[Setting]:
        """Return settings to sweep, cheapest first."""
        raise NotImplementedError

    def search(
        self, queries: np.ndarray, setting: Setting, keep: np.ndarray | None = None
    ) -> np.ndarray:
        """Return (queries, K) rows; -1 where fewer were found."""
        raise NotImplementedError


class Hnswlib(System):
    name = "hnswlib"
    package = "hnswlib"

    def _empty(self, dim: int) -> Any:
        return importlib.import_module("hnswlib").Index("ip", dim)

    def build(self, rows: np.ndarray) -> None:
        self.index = self._empty(rows.shape[1])
        self.index.init_index(len(rows), M=32, ef_construction=200, random_seed=0)
        self.index.set_num_threads(self.threads)
        self.index.add_items(rows)

    def save(self, folder: Path) -> None:
        self.index.save_index(str(folder / "index"))

    def load(self, folder: Path, rows: np.ndarray) -> None:
        self.index = self._empty(rows.shape[1])
        self.index.load_index(str(folder / "index"), len(rows))
        self.index.set_num_threads(self.threads)

    def settings(self) -> Sequence[Setting]:
        return [{"ef": ef} for ef in (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)]

    def search(
        self, queries: np.ndarray, setting: Setting, keep: np.ndarray | None = None
    ) -> np.ndarray:
        self.index.set_ef(setting["ef"])
        return self.index.knn_query(queries, K)[0].astype(np.int64)


class Usearch(System):
    name = "usearch"
    package = "usearch"
    dtype = "f32"

    def build(self, rows: np.ndarray) -> None:
        usearch = importlib.import_module("usearch.index")
        self.index = usearch.Index(
            ndim=rows.shape[1], metric="ip", dtype=self.dtype, connectivity=32, expansion_add=200,
            enable_key_lookups=False,
        )  # fmt: skip
        self.index.add(np.arange(len(rows)), rows, threads=self.threads)

    def save(self, folder: Path) -> None:
        self.index.save(str(folder / "index"))

    def load(self, folder: Path, rows: np.ndarray) -> None:
        usearch = importlib.import_module("usearch.index")
        self.index = usearch.Index.restore(str(folder / "index"))

    def settings(self) -> Sequence[Setting]:
        return [{"ef": ef} for ef in (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)]

    def search(
        self, queries: np.ndarray, setting: Setting, keep: np.ndarray | None = None
    ) -> np.ndarray:
        self.index.expansion_search = setting["ef"]
        keys = self.index.search(queries, K, threads=self.threads).keys
        return np.asarray(keys, np.int64).reshape(len(queries), -1)


class UsearchBf16(Usearch):
    name = "usearch bf16"
    dtype = "bf16"


class Scann(System):
    name = "ScaNN"
    package = "scann"

    def _scann(self) -> Any:
        return importlib.import_module("scann.scann_ops.py.scann_ops_pybind")

    def build(self, rows: np.ndarray) -> None:
        leaves = 1 << round(np.log2(2 * np.sqrt(len(rows))))
        builder = self._scann().builder(rows, K, "dot_product")
        builder = builder.tree(leaves, 100, training_sample_size=min(len(rows), 250_000))
        builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100)
        self.index = builder.set_n_training_threads(self.threads).build()
        self.index.set_num_threads(self.threads)

    def save(self, folder: Path) -> None:
        self.index.serialize(str(folder))

    def load(self, folder: Path, rows: np.ndarray) -> None:
        self.index = self._scann().load_searcher(str(folder))
        self.index.set_num_threads(self.threads)

    def settings(self) -> Sequence[Setting]:
        pairs = [(8, 40), (16, 40), (24, 40), (40, 40), (60, 40), (80, 40), (102, 40), (128, 60),
                 (153, 60), (192, 60), (220, 60), (300, 60)]  # fmt: skip
        return [{"leaves": leaves, "reorder": reorder} for leaves, reorder in pairs]

    def search(
        self, queries: np.ndarray, setting: Setting, keep: np.ndarray | None = None
    ) -> np.ndarray:
        told = {"final_num_neighbors": K, "leaves_to_search": setting["leaves"],
                "pre_reorder_num_neighbors": setting["reorder"]}  # fmt: skip
        if len(queries) == 1:
            return self.index.search(queries[0], **told)[0][None].astype(np.int64)
        return self.index.search_batched_parallel(queries, **told)[0].astype(np.int64)


class SvsVamana(System):
    name = "SVS Vamana f32"
    package = "scalable-vs"
    dtype = "float32"

    def build(self, rows: np.ndarray) -> None:
        svs = importlib.import_module("svs")
        told = svs.VamanaBuildParameters(alpha=0.95, graph_max_degree=64, window_size=200)
        self.index = svs.Vamana.build(
            told, rows.astype(self.dtype), svs.DistanceType.MIP, num_threads=self.threads
        )

    def save(self, folder: Path) -> None:
        self.index.save(*(str(folder / part) for part in ("config", "graph", "data")))

    def load(self, folder: Path, rows: np.ndarray) -> None:
        svs = importlib.import_module("svs")
        self.index = svs.Vamana(
            str(folder / "config"),
            svs.GraphLoader(str(folder / "graph")),
            svs.VectorDataLoader(str(folder / "data"), getattr(svs.DataType, self.dtype)),
            svs.DistanceType.MIP,
            num_threads=self.threads,
        )

    def settings(self) -> Sequence[Setting]:
        return [{"window": w} for w in (10, 13, 16, 20, 26, 32, 40, 52, 64, 96, 128, 192)]

    def search(
        self, queries: np.ndarray, setting: Setting, keep: np.ndarray | None = None
    ) -> np.ndarray:
        self.index.search_window_size = setting["window"]
        return self.index.search(queries, K)[0].astype(np.int64)


class SvsVamanaHalf(SvsVamana):
    name = "SVS Vamana f16"
    dtype = "float16"


PEERS = {
    "hnswlib": Hnswlib,
    "usearch": Usearch,
    "usearch_bf16": UsearchBf16,
    "scann": Scann,
    "svs": SvsVamana,
    "svs_f16": SvsVamanaHalf,
}


def size_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def fresh(folder: Path) -> Path:
    """Make a folder empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
