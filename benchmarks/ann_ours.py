"""gpuvec behind the face of `ann_peers.System`: its indexes alone, and whole calls of its API."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from ann_peers import K, Setting, System

import gpuvec as gv
from gpuvec.index import registry
from gpuvec.index.base import IndexFile
from gpuvec.index.spec import IndexSpec, spec_from_json
from gpuvec.rows import DenseVectors

RECALLS = (0.9, 0.95, 0.99)


def narrow(rows: np.ndarray) -> np.ndarray:
    """Return the rows as float16 where that loses nothing, as they are stored."""
    half = rows.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), rows) else rows


class Index(System):
    """One index, asked directly."""

    package = "gpuvec"
    masks = True
    rebuilt = True
    spec: IndexSpec

    def warm(self, rows: np.ndarray) -> None:
        index = registry.build(self.spec, DenseVectors(narrow(rows)), "ip", threads=self.threads)
        for count in (1, 200):
            index.search(rows[:count], K, threads=self.threads)

    def build(self, rows: np.ndarray) -> None:
        self.vectors = DenseVectors(narrow(rows))
        self.index = registry.build(self.spec, self.vectors, "ip", threads=self.threads)

    def save(self, folder: Path) -> None:
        for name, parts in self.index.files().items():
            (folder / name).write_bytes(b"".join(bytes(part) for part in parts))
        (folder / "spec").write_text(json.dumps(self.index.spec.to_json()))

    def load(self, folder: Path, rows: np.ndarray) -> None:
        files = {
            path.name: IndexFile(data=np.memmap(path, np.uint8, "r"), path=str(path))
            for path in folder.iterdir()
            if path.name != "spec"
        }
        spec = spec_from_json(json.loads((folder / "spec").read_text()))
        self.vectors = DenseVectors(narrow(rows))
        self.index = registry.load(spec, self.vectors, "ip", files)

    def settings(self) -> Sequence[Setting]:
        return [dict(params) for params in self.index.settings(K)]

    def search(
        self, queries: np.ndarray, setting: Setting, keep: np.ndarray | None = None
    ) -> np.ndarray:
        found = self.index.search(queries, K, params=setting, keep=keep, threads=self.threads)
        return found.rows


class IndexInt8(Index):
    name = "gpuvec IVFInt8, the index alone"
    spec = gv.index.IVFInt8()


class IndexHnsw(Index):
    name = "gpuvec HNSW, the index alone"
    spec = gv.index.HNSW()
    rebuilt = False


class Exact(System):
    """The exact scan, asked directly."""

    name = "gpuvec exact scan"
    package = "gpuvec"
    masks = True
    rebuilt = True

    def warm(self, rows: np.ndarray) -> None:
        self.build(rows)

    def build(self, rows: np.ndarray) -> None:
        self.index = registry.exact(DenseVectors(narrow(rows)), "ip")
        self.index.search(rows[:200], K, threads=self.threads)  # packs its rows

    def save(self, folder: Path) -> None:
        """Nothing is kept on disk."""

    def settings(self) -> Sequence[Setting]:
        return [{}]

    def search(
        self, queries: np.ndarray, setting: Setting, keep: np.ndarray | None = None
    ) -> np.ndarray:
        return self.index.search(queries, K, keep=keep, threads=self.threads).rows


class Whole(System):
    """Collection, index and search as users write them: from queries to an Arrow table."""

    name = "gpuvec, whole calls"
    package = "gpuvec"
    masks = True
    rebuilt = True
    index: str | IndexSpec = "auto"

    def build(self, rows: np.ndarray) -> None:
        gv.config.set(threads=self.threads, progress=False)
        masks = {
            column_of(path.stem.removeprefix("mask_")): np.load(path)
            for path in self.data.glob("mask_*.npy")
        }
        table = {"id": np.arange(len(rows)), **masks}
        values = narrow(rows)
        arrow = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), rows.shape[1])
        table["vector"] = arrow
        vector = gv.Vector(rows.shape[1], dtype=str(values.dtype), metric="ip")
        fields = {"id": gv.Int64()} | {name: gv.Bool() for name in masks}
        self.db = gv.connect(self.folder / "db")
        schema = gv.Schema({**fields, "vector": vector}, primary_key="id")
        self.items = self.db.create_collection("items", schema)
        self.items.insert(pa.table(table))
        print(self.items.create_index("vector", self.index))

    def save(self, folder: Path) -> None:
        """The database saved itself; it alone counts."""
        for path in folder.iterdir():
            if path.name != "db":
                shutil.rmtree(path)

    def settings(self) -> Sequence[Setting]:
        return [*({"recall": r} for r in RECALLS), {"exact": True}]

    def search(
        self, queries: np.ndarray, setting: Setting, keep: np.ndarray | None = None
    ) -> np.ndarray:
        frame = self.items
        if keep is not None:
            frame = frame.filter(f"{column_of(self.mask)} == true")
        found = frame.select("id").search(queries, K, **setting).to_arrow()
        rows = np.full((len(queries), K), -1, np.int64)
        rows[found["query_id"].to_numpy(), found["rank"].to_numpy() - 1] = found["id"].to_numpy()
        return rows


class WholeHnsw(Whole):
    """Whole calls on a graph, at FAISS's own settings: what a call costs beside the raw index."""

    name = "gpuvec HNSW, whole calls"
    index = gv.index.HNSW()

    def settings(self) -> Sequence[Setting]:
        return [{"params": {"ef_search": ef}} for ef in (16, 32, 48, 64, 96, 128, 192)]


def column_of(mask: str) -> str:
    """Return the name of a mask's column."""
    return "keep_" + mask.replace(".", "_")


OURS = {
    "gpuvec": Whole,
    "gpuvec_hnsw": WholeHnsw,
    "gpuvec_ivf_index": IndexInt8,
    "gpuvec_hnsw_index": IndexHnsw,
    "gpuvec_exact": Exact,
}
