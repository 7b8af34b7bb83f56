"""Make the sample in this folder from the full debian-packages set.

    python benchmarks/data/make_sample.py /path/to/debian-packages

The rows are every package that a query is known to be about, and as many others, drawn with a fixed
seed, as make `ROWS`. All 21 scalar columns and the vector are kept as they are, but `id`, which is
the row number again. The queries are all 1,000. The truth is computed anew, in float64, for the
four filters. The same input and library versions give the same files, byte for byte.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROWS = 12_700
SEED = 20_261_123
NEIGHBORS = 20
ROW_GROUP = 2_048
DIM = 384


def main(source: Path, target: Path) -> None:
    """Write packages, queries, filters and truth of the sample to `target`."""
    packages = pq.read_table(source / "packages.parquet")
    queries = pq.read_table(source / "queries.parquet")
    filters = json.loads((source / "filters.json").read_text())
    sample = draw(packages, queries)
    truth = [
        nearest(sample, queries, name, mask_of(sample, rule["where"]))
        for name, rule in filters.items()
    ]
    for name, rule in filters.items():
        rows = int(mask_of(sample, rule["where"]).sum())
        filters[name] = {**rule, "rows": rows, "selectivity": round(rows / len(sample), 6)}
    write(sample, target / "packages.parquet", plain=["vector"])
    write(queries, target / "queries.parquet", plain=["vector"])
    write(pa.concat_tables(truth), target / "ground_truth.parquet", plain=["scores"])
    (target / "filters.json").write_text(json.dumps(filters, indent=1) + "\n")


def draw(packages: pa.Table, queries: pa.Table) -> pa.Table:
    """Return the sample, in the order of the full set, numbered from 0."""
    known = pc.is_in(packages["name"], value_set=pc.drop_null(queries["about_package"]))
    chosen = known.to_numpy()
    others = np.flatnonzero(~chosen)
    drawn = np.random.default_rng(SEED).choice(others, ROWS - chosen.sum(), replace=False)
    rows = np.sort(np.concatenate([np.flatnonzero(chosen), drawn]))
    ids = pa.array(np.arange(ROWS, dtype=np.int32))
    return packages.take(pa.array(rows)).set_column(0, "id", ids)


def mask_of(table: pa.Table, where: list[list[object]]) -> np.ndarray:
    """Return which rows meet all conditions, each `[column, operator, value]`; null never does."""
    operators = {"==": pc.equal, ">=": pc.greater_equal}
    keep = np.ones(len(table), bool)
    for column, operator, value in where:
        found = operators[operator](table[column], value)
        keep &= pc.fill_null(found, False).to_numpy()
    return keep


def matrix(table: pa.Table) -> np.ndarray:
    """Return the vectors, (rows, 384) float64."""
    values = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values.reshape(-1, DIM).astype(np.float64)


def nearest(sample: pa.Table, queries: pa.Table, name: str, keep: np.ndarray) -> pa.Table:
    """Return the exact nearest rows of each query among those kept; ties go by the lower id.

    The vectors are float16, so each product and each sum of 384 of them is exact in float64.
    """
    rows = np.flatnonzero(keep)
    scores = matrix(queries) @ matrix(sample)[rows].T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :NEIGHBORS]
    best = np.take_along_axis(scores, order, axis=1).astype(np.float32)
    return pa.table(
        {
            "query_id": queries["query_id"],
            "filter": [name] * len(queries),
            "neighbors": fixed_lists(rows[order].astype(np.int32)),
            "scores": fixed_lists(best),
        }
    )


def fixed_lists(values: np.ndarray) -> pa.Array:
    """Return a 2-D array as a column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def write(table: pa.Table, path: Path, *, plain: list[str]) -> None:
    """Write one Parquet file; the `plain` columns are not worth a dictionary."""
    pq.write_table(
        table.replace_schema_metadata(),
        path,
        compression="zstd",
        compression_level=19,
        row_group_size=ROW_GROUP,
        use_dictionary=[name for name in table.column_names if name not in plain],
        store_schema=True,
        write_statistics=True,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent)
