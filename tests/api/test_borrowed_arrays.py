"""Vectors are searched where they lie: read-only, out of line, in files, in any byte order."""

import numpy as np
import pyarrow as pa
import pytest

import gpuvec as gv

ROWS, DIM = 3000, 16


def unaligned(values, _):
    return np.ndarray(values.shape, values.dtype, buffer=b"\0" + values.tobytes(), offset=1)


def read_only(values, _):
    found = values.copy()
    found.flags.writeable = False
    return found


def arrow(values, _):
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), DIM)


def arrow_lists(values, _):
    offsets = np.arange(len(values) + 1, dtype=np.int32) * DIM
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel()))


def arrow_slice(values, folder):
    column = arrow(values, folder)
    return pa.concat_arrays([column[:3], column])[3:]


def mapped(values, folder):
    table = pa.table({"v": arrow(values, folder)})
    with pa.OSFile(str(folder / "v"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write(table)
    return pa.ipc.open_file(pa.memory_map(str(folder / "v"))).read_all()["v"]


def swapped(values, _):
    return values.astype(values.dtype.newbyteorder(">"))


FORMS = [read_only, unaligned, swapped, arrow, arrow_lists, arrow_slice, mapped]


def answers(vectors, queries):
    rows = gv.frame({"id": np.arange(ROWS), "v": vectors})
    found = [
        frame.search(queries[:count], k=5, metric=metric).to_arrow()
        for frame in (rows, rows.filter("id < 30"))
        for count in (1, 200)
        for metric in ("cosine", "l2", "ip")
    ]
    first = queries[0].as_py() if isinstance(queries[0], pa.Scalar) else queries[0]
    measured = rows.with_columns(d=gv.col("v").distance(first)).to_arrow()["d"]
    return [*(table.to_pydict() for table in found), measured.to_pylist()]


@pytest.fixture(scope="module", params=["float32", "float16", "int8", "uint8"])
def values(request):
    rng = np.random.default_rng(0)
    if "int" in request.param:
        return rng.integers(1, 100, (ROWS, DIM)).astype(request.param)
    return rng.standard_normal((ROWS, DIM)).astype(request.param)


@pytest.fixture(scope="module")
def wanted(values):
    return answers(values, values)


@pytest.mark.parametrize("form", [*FORMS, lambda values, _: np.asfortranarray(values)])
def test_where_and_how_vectors_lie_does_not_change_an_answer(values, wanted, tmp_path, form):
    borrowed = form(values, tmp_path)
    assert answers(borrowed, borrowed) == wanted
