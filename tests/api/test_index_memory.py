"""The memory limit of a connection holds for builds of indexes."""

import numpy as np
import pytest

import gpuvec as gv

ROWS, DIM = 3000, 64


def filled(path, **options):
    db = gv.connect(path, **options)
    items = db.create_collection("items", gv.Schema({"id": gv.Int64(), "v": gv.Vector(DIM)}, "id"))
    vectors = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
    items.insert({"id": np.arange(ROWS), "v": vectors})
    return db, items


@pytest.mark.embedded
def test_a_build_beyond_the_limit_of_the_connection_is_refused(tmp_path):
    db, items = filled(tmp_path / "db", memory_limit="1MiB")
    with db, pytest.raises(gv.DeviceMemoryError) as caught:
        items.create_index("v", gv.index.IVFInt8())
    assert caught.value.code == "GV-401"


def test_a_later_connection_may_allow_more(tmp_path):
    db, _ = filled(tmp_path / "db", memory_limit="1MiB")
    with db, gv.connect(tmp_path / "db", memory_limit="1GiB") as other:
        report = other["items"].create_index("v", gv.index.IVFInt8(), recall=0.5)
        assert report.rows_covered == ROWS
