"""Data to try things on: made-up products, and the real Debian packages."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gpuvec.errors import no_data_set, unknown_truth

if TYPE_CHECKING:
    import pandas as pd

DIM = 128
_SAMPLE = Path(__file__).resolve().parents[2] / "benchmarks" / "data"
_DUPLICATES = 0.05  # share of rows that nearly repeat another
_BRANDS = ("acme", "zeta", "nordwind", "kestrel", "oak & ash", "lumen", "ferro", "miranda")
_COUNTRIES = ("DE", "FR", "US", "JP", "BR", "IN", "PL", "KE")
_LOOKS = ("red", "blue", "light", "folding", "woollen", "steel", "small", "heavy", "striped")
_THINGS = (
    "shoe", "lamp", "jacket", "kettle", "chair", "bicycle", "backpack", "knife", "watch", "blanket",
    "radio", "tent", "mug", "desk", "glove", "scarf", "pan", "shelf", "helmet", "pillow",
)  # fmt: skip
_TAGS = ("new", "sale", "outdoor", "kitchen", "gift", "organic", "used")


def products(n: int, seed: int = 0) -> "pd.DataFrame":
    """Make up products with vectors; one in twenty is a near-duplicate of another.

    Products of one kind (the last word of the title) lie near each other, at a cosine distance of
    about 0.5; near-duplicates within 0.02.

    Args:
        n: rows.
        seed: the same seed gives the same rows.

    Returns:
        pandas columns `id` (int64, from 0), `title`, `brand`, `country`, `ts` (UTC), `price`
        (float32, some missing), `tags` (words), `embedding` (128 float32, length 1).
    """
    import pandas as pd

    rng = np.random.default_rng(seed)
    source = np.arange(n)
    copies, originals = np.split(rng.permutation(n), [int(n * _DUPLICATES)])
    source[copies] = rng.choice(originals, len(copies)) if n else 0
    brand, country, look, thing = (
        rng.integers(0, len(words), n)[source] for words in (_BRANDS, _COUNTRIES, _LOOKS, _THINGS)
    )
    title = pc.binary_join_element_wise(_pick(_LOOKS, look), _pick(_THINGS, thing), " ")
    price = rng.lognormal(3.0, 1.0, n)[source].round(2).astype(np.float32)
    price[rng.random(n) < 0.02] = np.nan
    seconds = rng.integers(0, 365 * 86_400, n)
    table = pa.table(
        {
            "id": np.arange(n),
            "title": title,
            "brand": _pick(_BRANDS, brand),
            "country": _pick(_COUNTRIES, country),
            "ts": pa.array(1_735_689_600_000_000 + seconds * 1_000_000, pa.timestamp("us", "UTC")),
            "price": price,
            "tags": _tags(rng, n),
        }
    )
    frame: pd.DataFrame = table.to_pandas()
    frame["embedding"] = pd.Series(list(_embed(rng, thing, source)), dtype=object)
    return frame


def _pick(words: tuple[str, ...], at: NDArray[np.int64]) -> pa.Array:
    return pa.array(words).take(pa.array(at))


def _tags(rng: np.random.Generator, n: int) -> pa.Array:
    has = rng.random((n, len(_TAGS))) < 0.2
    offsets = np.concatenate([[0], np.cumsum(has.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), _pick(_TAGS, np.nonzero(has)[1]))


def _embed(
    rng: np.random.Generator, thing: NDArray[np.int64], source: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return unit vectors around a centre for each thing; rows of one source differ by little."""
    n = len(thing)
    scale = np.float32(1 / np.sqrt(DIM))
    centres = rng.standard_normal((len(_THINGS), DIM), dtype=np.float32) * scale
    own = rng.standard_normal((n, DIM), dtype=np.float32) * scale
    found = centres[thing] + own[source]
    repeats = np.flatnonzero(source != np.arange(n))
    noise = rng.standard_normal((len(repeats), DIM), dtype=np.float32)
    found[repeats] += noise * (scale * np.float32(0.1))
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def debian_packages() -> pa.Table:
    """Return real rows: Debian packages with 21 scalar columns and a `vector` of 384 float16.

    All 63,666 of them if `GPUVEC_DATA` names the folder of the full set, else the sample in a clone
    of the project. `benchmarks/data/README.md` describes the columns.

    Raises:
        NotFoundError: `GV-126`, there is neither.
    """
    return pq.read_table(debian_folder() / "packages.parquet")


def debian_queries() -> pa.Table:
    """Return 1,000 real queries: `query_id`, `source`, `about_package`, `text`, `vector`.

    Raises:
        NotFoundError: `GV-126`, see `debian_packages`.
    """
    return pq.read_table(debian_folder() / "queries.parquet")


def debian_truth(name: str = "none") -> pa.Table:
    """Return the exact nearest packages of every query, under one of the four filters.

    Args:
        name: `none`, `50pct`, `10pct` or `1pct`: see `filters.json` in `debian_folder()`.

    Returns:
        `query_id`, `filter`, `neighbors` (ids, best first) and `scores` (inner products).

    Raises:
        NotFoundError: `GV-126`, see `debian_packages`; `GV-127`, no such filter.
    """
    truth = pq.read_table(debian_folder() / "ground_truth.parquet")
    names = pc.unique(truth["filter"]).to_pylist()
    if name not in names:
        raise unknown_truth(name, names)
    return truth.filter(pc.equal(truth["filter"], name))


def debian_folder() -> Path:
    """Return the folder of the debian-packages files.

    Raises:
        NotFoundError: `GV-126`, see `debian_packages`.
    """
    named = os.environ.get("GPUVEC_DATA")
    folder = Path(named) if named else _SAMPLE
    if not (folder / "packages.parquet").is_file():
        raise no_data_set(folder)
    return folder
