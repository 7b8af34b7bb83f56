"""Data of the approximate benchmark: rows, queries, masks and the true k-th scores, as NumPy files.

Truth is FAISS Flat's, its candidates scored again in float64.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from gpuvec.peers import import_faiss

K = 10
SPARE = 10  # candidates beyond K, since float32 sums may swap neighbours
FORMAT = 3  # raised when a file's meaning changes
SHARES = {"50": 0.5, "10": 0.1, "1": 0.01, "0.1": 0.001}
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": lambda column, value: column == value,
    ">=": lambda column, value: column >= value,
}


def column(path: Path, name: str) -> np.ndarray:
    values = pq.read_table(path, columns=[name])[name].combine_chunks()
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)


def debian_packages(folder: Path) -> dict[str, Any]:
    """Real rows and 1,000 real queries; 9,000 more are those with a little noise."""
    rows = column(folder / "packages.parquet", "vector").astype(np.float32)
    queries = column(folder / "queries.parquet", "vector").astype(np.float32)
    noise = np.random.default_rng(0).normal(size=(9 * len(queries), queries.shape[1]))
    more = np.tile(queries, (9, 1)) + 0.005 * noise.astype(np.float32)
    more /= np.linalg.norm(more, axis=1)[:, None]
    table = pq.read_table(folder / "packages.parquet").drop_columns(["vector"]).to_pandas()
    masks = {}
    for filter_name, told in json.loads((folder / "filters.json").read_text()).items():
        keep = np.ones(len(rows), bool)
        for name, operator, value in told["where"]:
            keep &= COMPARE[operator](table[name], value).to_numpy()
        if not keep.all():
            masks[f"real_{filter_name}"] = keep
    return {"rows": rows, "queries": np.concatenate([queries, more]), "masks": masks}


def made_up(count: int = 1_000_000, dim: int = 128) -> dict[str, Any]:
    """Clusters of many sizes and widths on a slope of energies, as embeddings have."""
    rng = np.random.default_rng(1)
    slope = (np.arange(1, dim + 1) ** -0.35).astype(np.float32)
    middles = rng.normal(size=(2_000, dim)).astype(np.float32) * slope
    sizes = rng.dirichlet(np.full(len(middles), 0.5))
    owner = rng.choice(len(middles), count + 10_000, p=sizes)
    points = rng.standard_normal((count + 10_000, dim), np.float32)
    points *= 0.8 * slope
    points += middles[owner]
    points /= np.linalg.norm(points, axis=1)[:, None]
    return {"rows": points[:count], "queries": points[count:], "masks": {}}


def prepare(name: str, make: Callable[[], dict[str, Any]], folder: Path) -> Path:
    """Write a data set's files, unless they are there; return their folder."""
    home = folder / "data" / name
    done = home / f"done-{FORMAT}"
    if done.exists():
        return home
    home.mkdir(parents=True, exist_ok=True)
    data = make()
    rows, queries = np.ascontiguousarray(data["rows"]), np.ascontiguousarray(data["queries"])
    np.save(home / "rows.npy", rows)
    np.save(home / "queries.npy", queries)
    _write_truth(home, "none", rows, queries, None)
    for mask, keep in {**masks_of(rows, queries), **data["masks"]}.items():
        np.save(home / f"mask_{mask}.npy", keep)
        _write_truth(home, mask, rows, queries[:1_000], keep)
    done.touch()
    return home


def masks_of(rows: np.ndarray, queries: np.ndarray) -> dict[str, np.ndarray]:
    """Return random masks, and one of rows round one query: near for few queries, far for most."""
    rng = np.random.default_rng(2)
    masks = {f"random_{name}": rng.random(len(rows)) < p for name, p in SHARES.items()}
    scores = rows @ queries[7]
    masks["correlated_10"] = scores >= np.quantile(scores, 0.9)
    masks["correlated_1"] = scores >= np.quantile(scores, 0.99)
    return masks


def _write_truth(
    home: Path, mask: str, rows: np.ndarray, queries: np.ndarray, keep: np.ndarray | None
) -> None:
    """Write each query's true k-th score, and how many answers it can have."""
    faiss = import_faiss()
    some = rows if keep is None else np.ascontiguousarray(rows[keep])
    width = min(K, len(some))
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(some)
    kth = np.empty(len(queries), np.float32)
    for at in range(0, len(queries), 1_000):
        part = queries[at : at + 1_000]
        near = index.search(part, min(K + SPARE, len(some)))[1]
        scores = np.einsum("qkd,qd->qk", some[near].astype(np.float64), part.astype(np.float64))
        kth[at : at + 1_000] = -np.sort(-scores, axis=1)[:, width - 1]
    np.save(home / f"kth_{mask}.npy", kth)
    np.save(home / f"width_{mask}.npy", np.int64(width))
