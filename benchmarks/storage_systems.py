"""One face for gpuvec, LanceDB and milvus-lite; each is imported only where it runs.

Vectors are unit vectors under the inner product. Every system is used as its manual says for bulk
loads and batch searches.
"""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

NAME = "items"


def table(ids: np.ndarray, vectors: np.ndarray, column: str) -> pa.Table:
    values = pa.array(np.ascontiguousarray(vectors).ravel())
    lists = pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])
    return pa.table({"id": ids, column: lists})


class Gpuvec:
    """gpuvec; an acknowledged write is synced."""

    package = "gpuvec"
    remote = True

    @staticmethod
    def load() -> None:
        import gpuvec as gv

        _ = gv.connect, gv.Schema, gv.Vector

    def __init__(self, place: str, options: Mapping[str, Any] | None, dim: int) -> None:
        import gpuvec as gv

        self._gv = gv
        self.db = gv.connect(place, storage_options=options and dict(options))
        self._dim = dim

    def create(self) -> None:
        gv = self._gv
        schema = gv.Schema({"id": gv.Int64(), "v": gv.Vector(self._dim, metric="ip")}, "id")
        self.items = self.db.create_collection(NAME, schema)

    def open(self) -> None:
        self.items = self.db[NAME]

    def insert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        self.items.insert(table(ids, vectors, "v"))

    def flush(self) -> None:
        self.items.flush()

    def index(self) -> None:
        self.items.create_index("v")

    def count(self) -> int:
        return self.items.count()

    def search(self, queries: np.ndarray, k: int, *, exact: bool) -> np.ndarray:
        found = self.items.select("id").search(queries, k, exact=exact).to_arrow()
        return found["id"].to_numpy().reshape(len(queries), k)

    def close(self) -> None:
        self.db.close()


class Lance:
    """LanceDB: every write is a new version of the table."""

    package = "lancedb"
    remote = True

    @staticmethod
    def load() -> None:
        import lancedb  # noqa: F401

    def __init__(self, place: str, options: Mapping[str, Any] | None, dim: int) -> None:
        import lancedb

        self.db = lancedb.connect(place, storage_options=options and lance_options(options))
        self._dim = dim

    def create(self) -> None:
        lists = pa.list_(pa.float32(), self._dim)
        self.items = self.db.create_table(NAME, schema=pa.schema({"id": pa.int64(), "v": lists}))

    def open(self) -> None:
        self.items = self.db.open_table(NAME)

    def insert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        self.items.add(table(ids, vectors, "v"))

    def flush(self) -> None:
        self.items.optimize()

    def index(self) -> None:
        self.items.create_index("dot", vector_column_name="v", index_type="IVF_HNSW_SQ")

    def count(self) -> int:
        return self.items.count_rows()

    def search(self, queries: np.ndarray, k: int, *, exact: bool) -> np.ndarray:
        many = list(queries) if len(queries) > 1 else queries[0]
        asked = self.items.search(many, vector_column_name="v").distance_type("dot")
        asked = asked.bypass_vector_index() if exact else asked.nprobes(20).ef(128)
        found = asked.select(["id", "_distance"]).limit(k).to_arrow()
        if len(queries) > 1:
            found = found.sort_by([("query_index", "ascending"), ("_distance", "ascending")])
        return found["id"].to_numpy().reshape(len(queries), k)

    def close(self) -> None:
        pass


class MilvusLite:
    """milvus-lite, in the caller's process; local only."""

    package = "milvus-lite"
    remote = False

    @staticmethod
    def load() -> None:
        from pymilvus import DataType, MilvusClient  # noqa: F401

    def __init__(self, place: str, options: Mapping[str, Any] | None, dim: int) -> None:
        from pymilvus import MilvusClient

        Path(place).mkdir(parents=True, exist_ok=True)
        self.client = MilvusClient(f"{place}/milvus.db")
        self._dim = dim

    def create(self) -> None:
        from pymilvus import DataType

        schema = self.client.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("v", DataType.FLOAT_VECTOR, dim=self._dim)
        self._index("FLAT", {})
        self.client.create_collection(NAME, schema=schema, index_params=self.params)

    def _index(self, kind: str, params: Mapping[str, Any]) -> None:
        self.params = self.client.prepare_index_params()
        self.params.add_index("v", index_type=kind, metric_type="IP", params=dict(params))

    def open(self) -> None:
        self.client.load_collection(NAME)

    def insert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        rows = [{"id": int(i), "v": v} for i, v in zip(ids, vectors, strict=True)]
        self.client.insert(NAME, rows)

    def flush(self) -> None:
        self.client.flush(NAME)

    def index(self) -> None:
        self.client.release_collection(NAME)
        self.client.drop_index(NAME, "v")
        self._index("HNSW", {"M": 32, "efConstruction": 200})
        self.client.create_index(NAME, self.params)
        self.client.load_collection(NAME)

    def count(self) -> int:
        return int(self.client.query(NAME, output_fields=["count(*)"])[0]["count(*)"])

    def search(self, queries: np.ndarray, k: int, *, exact: bool) -> np.ndarray:
        params = {} if exact else {"params": {"ef": 128}}
        found = self.client.search(NAME, data=list(queries), limit=k, search_params=params)
        return np.array([[hit["id"] for hit in hits] for hits in found])

    def close(self) -> None:
        self.client.close()


SYSTEMS: dict[str, type] = {"gpuvec": Gpuvec, "lancedb": Lance, "milvus-lite": MilvusLite}


def lance_options(options: Mapping[str, Any]) -> dict[str, str]:
    return {
        "aws_access_key_id": options["key"],
        "aws_secret_access_key": options["secret"],
        "aws_endpoint": options["endpoint_url"],
        "aws_region": "us-east-1",
        "allow_http": "true",
    }


def version_of(system: str) -> str:
    return importlib.metadata.version(SYSTEMS[system].package)
