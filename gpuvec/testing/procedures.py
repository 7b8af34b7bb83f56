"""The procedures of the engine that are tried out with every fault; see `testing.every_fault`."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import gpuvec as gv
from gpuvec.api.database import Database
from gpuvec.meta.changes import SetIndex
from gpuvec.meta.changes_versions import DropPin, Pin
from gpuvec.meta.indexes import IndexDefinition
from gpuvec.node.build import build_index
from gpuvec.testing.every_fault import SCHEMA, Procedure, Step, rows


def _items(db: Database) -> Any:
    return db["items"]


def _create(db: Database) -> None:
    db.create_collection("items", SCHEMA)


def _flush(db: Database) -> None:
    _items(db).flush()


def _build(db: Database) -> None:
    """Want an index and build it for every segment, on this thread."""
    items = _items(db)
    engine, name = items._engine, items._id
    wish = IndexDefinition(index_id=engine.mint(), field="n", spec={"kind": "sorted"})
    engine.change(name, lambda _, ts: [SetIndex(definition=wish)])
    channel = engine.channel(name)
    for segment in channel.state.segments:
        build_index(channel, segment, "n", wish.index_id, host=engine, threads=1)


@lru_cache
def _file(*ids: int) -> str:
    """Return the path of a Parquet file with some rows."""
    folder = Path(_folder().name)
    path = folder / f"{'-'.join(map(str, ids))}.parquet"
    found = rows(*ids)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(found["v"].ravel()), 2)
    pq.write_table(pa.table({"id": found["id"], "n": found["n"], "v": vectors}), path)
    return str(path)


@lru_cache
def _folder() -> "TemporaryDirectory[str]":
    return TemporaryDirectory(prefix="gpuvec-files-")


def _pin(db: Database) -> None:
    items = _items(db)
    pin = Pin(pin_id="a", version=items.version, since_ms=0, expires_ms=1 << 50)
    items._engine.pin(items._id, [pin])


def _unpin(db: Database) -> None:
    items = _items(db)
    items._engine.pin(items._id, [DropPin(pin_id="a")])


_EMPTY: Sequence[Step] = (_create,)
# Rows in two segments, deletes and upserts in files and in the log, rows that are only in the log.
_FILLED: Sequence[Step] = (
    _create,
    lambda db: _items(db).insert(rows(*range(10))),
    _flush,
    lambda db: _items(db).delete(ids=[1, 2]),
    lambda db: _items(db).insert(rows(*range(20, 25), n=1), partition="p"),
    _flush,
    lambda db: _items(db).upsert(rows(3, 30, n=2)),
    lambda db: _items(db).delete(ids=[4, 21]),
)

PROCEDURES: Mapping[str, Procedure] = {
    "create a collection": Procedure(steps=[_create]),
    "create a collection with its rows": Procedure(
        steps=[lambda db: db.create_collection("items", SCHEMA, data=rows(*range(10)))]
    ),
    "drop a collection": Procedure(before=_FILLED, steps=[lambda db: db.drop_collection("items")]),
    "create one of a dropped one's name": Procedure(
        before=(*_FILLED, lambda db: db.drop_collection("items")), steps=[_create]
    ),
    "rename": Procedure(before=_FILLED, steps=[lambda db: db.rename("items", "things")]),
    "set and drop an alias": Procedure(
        before=_FILLED,
        steps=[lambda db: db.alias("goods", "items"), lambda db: db.alias("goods", None)],
    ),
    "claim, replay and insert": Procedure(
        before=_FILLED, steps=[lambda db: _items(db).insert(rows(40, 41))]
    ),
    "insert twice": Procedure(
        before=_EMPTY,
        steps=[lambda db: _items(db).insert(rows(1, 2)), lambda db: _items(db).insert(rows(3))],
    ),
    "insert into a new partition": Procedure(
        before=_FILLED, steps=[lambda db: _items(db).insert(rows(40), partition="q")]
    ),
    "insert and skip": Procedure(
        before=_FILLED, steps=[lambda db: _items(db).insert(rows(3, 50, n=9), on_conflict="skip")]
    ),
    "upsert": Procedure(before=_FILLED, steps=[lambda db: _items(db).upsert(rows(3, 22, 60, n=5))]),
    "update": Procedure(
        before=_FILLED, steps=[lambda db: _items(db).update({"n": 7}, filter="id < 24")]
    ),
    "delete": Procedure(
        before=_FILLED,
        steps=[
            lambda db: _items(db).delete(ids=[3, 22]),
            lambda db: _items(db).delete(filter="n == 0"),
        ],
    ),
    "add and drop a field": Procedure(
        before=_FILLED,
        steps=[
            lambda db: _items(db).add_field("more", gv.Int32(), default=3),
            lambda db: _items(db).drop_field("word"),
        ],
    ),
    "drop a partition": Procedure(
        before=_FILLED, steps=[lambda db: _items(db).drop_partition("p")]
    ),
    "truncate and insert": Procedure(
        before=_FILLED,
        steps=[lambda db: _items(db).truncate(), lambda db: _items(db).insert(rows(3))],
    ),
    "let rows vanish": Procedure(before=_FILLED, steps=[lambda db: _items(db).set_ttl("9d")]),
    "flush": Procedure(before=_FILLED, steps=[_flush]),
    "flush, write, flush": Procedure(
        before=_FILLED,
        steps=[
            lambda db: _items(db).insert(rows(70)),
            _flush,
            lambda db: _items(db).delete(ids=[0, 70]),
            _flush,
        ],
    ),
    "build an index": Procedure(before=(*_FILLED, _flush), steps=[_build]),
    "replace an index": Procedure(before=(*_FILLED, _flush, _build), steps=[_build]),
    "drop an index": Procedure(
        before=(*_FILLED, _flush, _build), steps=[lambda db: _items(db).drop_index("n")]
    ),
    "compact": Procedure(before=_FILLED, steps=[lambda db: _items(db).compact()]),
    "compact with an index": Procedure(
        before=(*_FILLED, _flush, _build), steps=[lambda db: _items(db).compact()]
    ),
    "collect": Procedure(
        before=(*_FILLED, _flush, lambda db: _items(db).compact()),
        steps=[lambda db: _items(db).vacuum("0s")],
    ),
    "tag and untag": Procedure(
        before=_FILLED,
        steps=[lambda db: _items(db).tag("a"), lambda db: _items(db).untag("a")],
    ),
    "pin and unpin": Procedure(before=(*_FILLED, _flush), steps=[_pin, _unpin]),
    "keep for longer": Procedure(before=_FILLED, steps=[lambda db: _items(db).set_retention("9d")]),
    "write to several channels": Procedure(
        before=(
            lambda db: db.create_collection("items", SCHEMA, channels=3),
            lambda db: _items(db).insert(rows(*range(12))),
            _flush,
            lambda db: _items(db).upsert(rows(*range(6, 18), n=1)),
        ),
        steps=[
            lambda db: _items(db).insert(rows(*range(20, 32), n=2)),
            _flush,
            lambda db: _items(db).delete(ids=[0, 1, 2, 3, 4, 25]),
        ],
    ),
    "import": Procedure(
        before=_FILLED,
        steps=[lambda db: _items(db).bulk_import(_file(90, 91, 3), on_conflict="replace")],
        crashes=False,
    ),
    "import into several channels": Procedure(
        before=(
            lambda db: db.create_collection("items", SCHEMA, channels=3),
            lambda db: _items(db).insert(rows(*range(12))),
            lambda db: _items(db).upsert(rows(*range(6, 18), n=1)),
        ),
        steps=[
            lambda db: _items(db).bulk_import(
                _file(*range(10, 14), *range(90, 99)), on_conflict="replace"
            ),
            lambda db: _items(db).delete(ids=[0, 90, 91, 92]),
        ],
        crashes=False,
    ),
    "read files of others": Procedure(
        steps=[
            lambda db: db.create_collection("files", external=_file(1, 2), primary_key="id"),
        ]
    ),
    "restore": Procedure(
        before=(
            *_FILLED,
            lambda db: _items(db).tag("a"),
            lambda db: _items(db).delete(filter="id < 100"),
            lambda db: _items(db).insert(rows(80)),
        ),
        steps=[lambda db: _items(db).restore(tag="a")],
    ),
}
