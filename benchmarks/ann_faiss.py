"""FAISS's indexes behind the face of `ann_peers.System`, each on its fastest kernels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ann_peers import K, Setting, System

from gpuvec.peers import faiss_kernels, import_faiss


class Faiss(System):
    """What all of FAISS's indexes share."""

    package = "faiss-cpu"
    masks = True

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.faiss: Any = import_faiss()
        self.faiss.omp_set_num_threads(threads)

    def version(self) -> str:
        return f"{super().version()} on {faiss_kernels()}"

    def _make(self, rows: np.ndarray) -> Any:
        raise NotImplementedError

    def build(self, rows: np.ndarray) -> None:
        self.index = self._make(rows)
        if not self.index.is_trained:
            self.index.train(rows)
        self.index.add(rows)

    def save(self, folder: Path) -> None:
        self.faiss.write_index(self.index, str(folder / "index"))

    def load(self, folder: Path, rows: np.ndarray) -> None:
        self.index = self.faiss.read_index(str(folder / "index"))

    def _params(self, setting: Setting, selector: Any) -> Any:
        raise NotImplementedError

    def search(
        self, queries: np.ndarray, setting: Setting, keep: np.ndarray | None = None
    ) -> np.ndarray:
        selector = None
        if keep is not None:
            selector = self.faiss.IDSelectorBitmap(np.packbits(keep, bitorder="little"))
        return self.index.search(queries, K, params=self._params(setting, selector))[1]


class FaissFlat(Faiss):
    name = "FAISS Flat"

    def _make(self, rows: np.ndarray) -> Any:
        return self.faiss.IndexFlatIP(rows.shape[1])

    def settings(self) -> Sequence[Setting]:
        return [{}]

    def _params(self, setting: Setting, selector: Any) -> Any:
        return None if selector is None else self.faiss.SearchParameters(sel=selector)


class FaissHnsw(Faiss):
    name = "FAISS HNSW"

    def _make(self, rows: np.ndarray) -> Any:
        index = self.faiss.IndexHNSWFlat(rows.shape[1], 32, self.faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 200
        return index

    def settings(self) -> Sequence[Setting]:
        return [{"ef": ef} for ef in (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)]

    def _params(self, setting: Setting, selector: Any) -> Any:
        return self.faiss.SearchParametersHNSW(efSearch=setting["ef"], sel=selector)


class FaissIvf(Faiss):
    name = "FAISS IVFFlat"

    def _lists(self, rows: np.ndarray) -> int:
        return 1 << round(np.log2(4 * np.sqrt(len(rows))))

    def _make(self, rows: np.ndarray) -> Any:
        told = f"IVF{self._lists(rows)},Flat"
        return self.faiss.index_factory(rows.shape[1], told, self.faiss.METRIC_INNER_PRODUCT)

    def settings(self) -> Sequence[Setting]:
        return [{"n_probes": n} for n in (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)]

    def _params(self, setting: Setting, selector: Any) -> Any:
        return self.faiss.SearchParametersIVF(nprobe=setting["n_probes"], sel=selector)


class FaissFastScan(FaissIvf):
    """4-bit product quantisation in registers, then the best `refine` x K again in float32."""

    name = "FAISS IVFPQ fast-scan + re-rank"
    masks = False

    def _make(self, rows: np.ndarray) -> Any:
        dim = rows.shape[1]
        told = f"IVF{self._lists(rows) // 2},PQ{dim // 2}x4fs,RFlat"
        return self.faiss.index_factory(dim, told, self.faiss.METRIC_INNER_PRODUCT)

    def settings(self) -> Sequence[Setting]:
        pairs = [(8, 4), (16, 4), (24, 4), (32, 4), (48, 4), (72, 4), (72, 8), (96, 8), (128, 8),
                 (192, 8), (256, 8), (384, 8)]  # fmt: skip
        return [{"n_probes": n, "refine": r} for n, r in pairs]

    def _params(self, setting: Setting, selector: Any) -> Any:
        return self.faiss.IndexRefineSearchParameters(
            k_factor=setting["refine"],
            base_index_params=self.faiss.SearchParametersIVF(nprobe=setting["n_probes"]),
        )


FAISS = {
    "faiss_flat": FaissFlat,
    "faiss_hnsw": FaissHnsw,
    "faiss_ivf": FaissIvf,
    "faiss_fast_scan": FaissFastScan,
}
