"""Small collections for tests of edges, and what is asked of them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gpuvec as gv
from gpuvec.fields import FieldType


def rows(ids: Sequence[Any], **columns: Any) -> dict[str, Any]:
    """Return rows with vectors of ones."""
    return {"id": ids, **columns, "v": np.ones((len(ids), 2), np.float32)}


def make(
    db: gv.Database, key: FieldType | None = None, name: str = "c", **fields: FieldType
) -> gv.Collection:
    """Create a collection for such rows."""
    schema = gv.Schema({"id": key or gv.Int64(), **fields, "v": gv.Vector(2)}, primary_key="id")
    return db.create_collection(name, schema)


def reopened(tmp_path: Path, check: Callable[[gv.Collection], None], name: str = "c") -> None:
    """Check a collection that is open, flushed, and opened again."""
    with gv.connect(tmp_path / "shop") as db:
        check(db[name])
        db[name].flush()
        check(db[name])
    with gv.connect(tmp_path / "shop") as db:
        check(db[name])


def sorted_ids(frame: gv.Frame) -> list[Any]:
    """Return the keys of a frame's rows."""
    return sorted(frame.to_arrow()["id"].to_pylist())
