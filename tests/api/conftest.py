"""An empty database `db`; and what the examples of the API page share, with a brute force.

The names are those of the page. `nearest` is the oracle: float64 over every row, slow and obvious.
"""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pytest

import gpuvec as gv

ROWS = 1200
WORKERS = 4


@pytest.fixture(scope="session", autouse=True)
def connected(request) -> Iterator[None]:
    """Let `gv.connect` reach what `--cluster` says: nodes in this process, or worker processes."""
    chosen = request.config.getoption("--cluster")
    if chosen is None:
        yield
        return
    from gpuvec.testing.roles import RolesInProcess, on_workers

    with contextlib.ExitStack() as stack:
        if chosen == "inprocess":
            gv.connect = RolesInProcess().connect
        else:
            gv.connect = stack.enter_context(on_workers(WORKERS))
        yield


@pytest.fixture
def db(tmp_path, where) -> Iterator[gv.Database]:
    """An empty database in `shop`, closed after the test."""
    with gv.connect(**where(tmp_path / "shop")) as db:
        yield db


@pytest.fixture(scope="session")
def df() -> pd.DataFrame:
    """`id, title, brand, country, ts, price, tags, embedding`; some prices are missing."""
    return gv.datasets.products(ROWS, seed=7)


@pytest.fixture(scope="session")
def Q(df) -> np.ndarray:
    """Twelve queries near rows, none equal to one."""
    rng = np.random.default_rng(1)
    near = np.stack(df["embedding"][:12].to_numpy())
    return near + rng.standard_normal(near.shape).astype(np.float32) * np.float32(0.02)


@pytest.fixture(scope="session")
def q(Q) -> np.ndarray:
    return Q[0]


@pytest.fixture(scope="session")
def queries(Q, df) -> pd.DataFrame:
    """`user_id, brand, country, seen, vec`."""
    count = len(Q)
    return pd.DataFrame(
        {
            "user_id": [f"user {number}" for number in range(count)],
            "brand": df["brand"][:count].to_numpy(),
            "country": df["country"][:count].to_numpy(),
            "seen": pd.date_range("2025-03-01", periods=count, freq="D", tz="UTC"),
            "vec": list(Q),
        }
    )


@pytest.fixture(scope="session")
def schema() -> gv.Schema:
    return gv.Schema(
        {
            "id": gv.Int64(),
            "title": gv.String(),
            "brand": gv.String(),
            "country": gv.String(),
            "ts": gv.Timestamp(),
            "price": gv.Float32(nullable=True),
            "tags": gv.List(gv.String(), nullable=True),
            "embedding": gv.Vector(128, dtype="float16", metric="cosine"),
        },
        primary_key="id",
    )


@pytest.fixture(scope="session")
def stored(df) -> np.ndarray:
    """The vectors as the schema of the page keeps them: float16."""
    return np.stack(df["embedding"].to_numpy()).astype(np.float16)


def all_distances(vectors: np.ndarray, query: np.ndarray, metric: str = "cosine") -> np.ndarray:
    """Distances of a query to every vector, in float64, rounded once to float32."""
    x, y = np.asarray(vectors, np.float64), np.asarray(query, np.float64)
    if metric == "cosine":
        norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = 1 - np.where(norms == 0, 0.0, x @ y / norms)
    elif metric == "ip":
        found = -(x @ y)
    else:
        found = ((x - y) ** 2).sum(axis=1)
        found = np.sqrt(found) if metric == "l2" else found
    return found.astype(np.float32)


Nearest = Callable[..., pd.DataFrame]


@pytest.fixture(scope="session")
def nearest(df, stored) -> Nearest:
    """Return `nearest(query, keep=None, vectors=..., ids=..., metric="cosine")`.

    It gives `id` and `distance` of all kept rows, nearest first, equal distances by id.
    """

    def nearest(query, keep=None, *, vectors=stored, ids=df["id"], metric="cosine"):
        found = pd.DataFrame(
            {"id": np.asarray(ids), "distance": all_distances(vectors, query, metric)}
        )
        found = found if keep is None else found[np.asarray(keep)]
        return found.sort_values(["distance", "id"], ignore_index=True)

    return nearest


@pytest.fixture(
    scope="module",
    params=[1, pytest.param(3, marks=pytest.mark.slow)],
    ids=["one_channel", "three_channels"],
)
def items(request, df, schema, tmp_path_factory, where):
    """The collection of the page's examples, to be read only: rows in files and rows in the log."""
    with gv.connect(**where(tmp_path_factory.mktemp("page") / "shop")) as db:
        found = db.create_collection("items", schema, channels=request.param)
        found.insert(df[:700])
        found.flush()
        found.insert(df[700:])
        yield found
