"""Collections with scalar indexes: filters see every write, as they do without."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

import gpuvec as gv

FIELDS = {
    "id": gv.Int64(), "brand": gv.String(nullable=True), "price": gv.Float32(nullable=True),
    "ts": gv.Timestamp(), "sold": gv.Bool(), "tags": gv.List(gv.String(), nullable=True),
}  # fmt: skip
CONDITIONS = {
    'brand == "acme"': lambda r: r["brand"] == "acme",
    'not (brand in ["acme", "zeta"])': lambda r: r["brand"] not in ("acme", "zeta", None),
    "10 <= price < 20 and brand is not null":
        lambda r: r["price"] is not None and 10 <= r["price"] < 20 and r["brand"] is not None,
    "price != 5 or sold": lambda r: r["sold"] or (r["price"] is not None and r["price"] != 5),
    'ts >= "2026-11-01T00:30Z" and not sold': lambda r: r["ts"] >= HALF and not r["sold"],
    'array_contains_any(tags, ["a", "c"]) and price is null':
        lambda r: r["tags"] is not None and {"a", "c"} & set(r["tags"]) and r["price"] is None,
    'brand like "b%" and array_contains_all(tags, ["a", "b"]) or id < 5':
        lambda r: r["id"] < 5 or ((r["brand"] or "").startswith("b") and r["tags"] is not None
                                  and {"a", "b"} <= set(r["tags"])),
}  # fmt: skip
START = datetime(2026, 11, 1, tzinfo=UTC)
HALF = START + timedelta(minutes=30)
INDEXES = {
    "brand": gv.index.Bitmap(), "price": gv.index.Sorted(), "ts": gv.index.Sorted(),
    "sold": gv.index.Bitmap(), "tags": gv.index.Bitmap(),
}  # fmt: skip


def rows(rng, ids):
    def maybe(value):
        return None if rng.random() < 0.1 else value

    return [
        {
            "id": int(number),
            "brand": maybe(str(rng.choice(["acme", "zeta", "bolt", "b2"]))),
            "price": maybe(float(rng.integers(0, 60)) / 2),
            "ts": START + timedelta(seconds=int(rng.integers(0, 3600))),
            "sold": bool(rng.random() < 0.3),
            "tags": maybe([str(tag) for tag in "abc" if rng.random() < 0.4]),
        }
        for number in ids
    ]


def check(items, model):
    for text, holds in CONDITIONS.items():
        wanted = sorted(row["id"] for row in model.values() if holds(row))
        found = items.filter(text)
        assert sorted(found.to_arrow()["id"].to_pylist()) == wanted, text
        assert found.count() == len(wanted), text


@pytest.mark.parametrize("seed", [0, 1])
def test_filters_see_every_write_in_segments_with_and_without_indexes(tmp_path, seed):
    rng = np.random.default_rng(seed)
    model = {}

    def put(write, ids):
        found = rows(rng, ids)
        write(found)
        model.update({row["id"]: row for row in found})

    with gv.connect(tmp_path) as db:
        items = db.create_collection("items", gv.Schema(FIELDS, "id"))
        put(items.insert, range(300))
        for name, spec in INDEXES.items():
            items.create_index(name, spec)
        check(items, model)
        put(items.insert, range(300, 500))  # not in any file yet
        put(items.upsert, rng.choice(500, 60, replace=False))
        check(items, model)
        gone = rng.choice(500, 90, replace=False).tolist()
        items.delete(ids=gone)
        model = {key: row for key, row in model.items() if key not in gone}
        check(items, model)
        items.update({"price": 5.0}, filter='brand == "zeta"')
        for row in model.values():
            row["price"] = 5.0 if row["brand"] == "zeta" else row["price"]
        check(items, model)
        view_indexes = segment_indexes(items)
    assert set(INDEXES) <= {name for indexes in view_indexes for name in indexes}
    with gv.connect(tmp_path) as db:
        check(db["items"], model)


def segment_indexes(items):
    with items._source.snapshot() as snapshot:
        return [{name for name in INDEXES if view.index(name)} for view in snapshot]


def test_explain_names_the_fields_that_indexes_answer(tmp_path):
    with gv.connect(tmp_path) as db:
        items = db.create_collection("items", gv.Schema(FIELDS, "id"))
        items.insert(rows(np.random.default_rng(0), range(2_000)))
        items.create_index("brand", gv.index.Bitmap())
        text = str(items.filter('brand == "acme" and price < 10').explain())
        assert "brand by bitmap" in text
        assert "price by" not in text


def test_a_field_made_anew_under_the_same_name_has_no_old_index(tmp_path):
    with gv.connect(tmp_path) as db:
        items = db.create_collection("items", gv.Schema(FIELDS, "id"))
        items.insert(rows(np.random.default_rng(0), range(500)))
        items.create_index("brand", gv.index.Bitmap())
        assert items.filter('brand == "acme"').count() > 0
        items.drop_field("brand")
        items.add_field("brand", gv.String(nullable=True))
        assert items.filter('brand == "acme"').count() == 0
        assert items.filter("brand is null").count() == 500


def test_a_damaged_index_is_never_an_empty_answer(tmp_path):
    with gv.connect(tmp_path) as db:
        items = db.create_collection("items", gv.Schema(FIELDS, "id"))
        items.insert(rows(np.random.default_rng(0), range(500)))
        items.create_index("brand", gv.index.Bitmap())
    (file,) = tmp_path.rglob("scalar.arrow")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    with gv.connect(tmp_path) as db, pytest.raises(gv.CorruptError, match=r"scalar\.arrow"):
        db["items"].filter('brand == "acme"').count()


def test_threads_share_an_opened_index(tmp_path):
    with gv.connect(tmp_path) as db:
        items = db.create_collection("items", gv.Schema(FIELDS, "id"))
        found = rows(np.random.default_rng(0), range(3_000))
        items.insert(found)
        for name, spec in INDEXES.items():
            items.create_index(name, spec)
        wanted = [sum(map(bool, map(holds, found))) for holds in CONDITIONS.values()]
        with ThreadPoolExecutor(8) as pool:
            answers = pool.map(lambda text: items.filter(text).count(), list(CONDITIONS) * 20)
            assert list(answers) == wanted * 20
