"""Scalar indexes: what they answer, what they refuse, what they read and how large they are."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

import gpuvec as gv
from gpuvec.api.frame import Frame
from gpuvec.errors import QueryError, UnsupportedError
from gpuvec.expr.bind import bind_filter
from gpuvec.expr.evaluate import mask
from gpuvec.expr.parse import parse_filter
from gpuvec.index import scalar
from gpuvec.index.base import IndexFile
from gpuvec.index.spec import Bitmap, Sorted
from gpuvec.query import build
from gpuvec.query.cache import DerivedCache
from gpuvec.query.evaluate import indexed_fields, keep_part, mask_part
from gpuvec.query.memory_source import MemorySource
from gpuvec.query.plan import Columns
from gpuvec.query.session import Session
from gpuvec.schema import JSON, Float32, Float64, Int64, List, String, Timestamp, Vector
from tests.index.scalar_segments import built, indexed_view, loaded, part_of

ROWS = 5_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIELDS = {
    "id": Int64(), "few": Int64(nullable=True), "many": Float64(nullable=True),
    "brand": String(nullable=True), "name": String(), "tags": List(String(), nullable=True),
}  # fmt: skip
SPECS = (Bitmap(), Sorted())


def nullable(rng, values, kind):
    return pa.array(values, kind, mask=rng.random(len(values)) < 0.05)


def make_table(rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    brands = np.array(["acme", "zeta", *(f"b{n}" for n in range(200))], object)
    skewed = np.minimum(rng.geometric(0.3, rows) - 1, 201)
    tags = [[f"t{n}" for n in rng.geometric(0.2, rng.integers(0, 5))] for _ in range(rows)]
    return pa.table(
        {
            "id": pa.array(np.arange(rows)),
            "few": nullable(rng, rng.integers(0, 5, rows), pa.int64()),
            "many": nullable(rng, rng.normal(size=rows).round(3), pa.float64()),
            "brand": nullable(rng, brands[skewed], pa.string()),
            "name": pa.array([f"n{n:05}" for n in rng.permutation(rows)]),
            "tags": nullable(rng, tags, pa.list_(pa.string())),
        }
    )


TABLE = make_table()


def bound(text):
    return bind_filter(parse_filter(text), FIELDS)


def agrees(index, text, table=TABLE):
    condition = bound(text)
    answer = index.ask(condition.tree)
    assert answer is not None, text
    assert np.array_equal(answer.mask(), mask(condition, table)), text
    assert np.array_equal(answer.mask(null=True), mask(condition, table, null=True)), text
    assert answer.count >= np.count_nonzero(mask(condition, table))


@pytest.mark.parametrize("spec", SPECS)
def test_ranges_of_every_width_are_exact(spec):
    index = loaded(spec, TABLE["many"])
    for low, high in [(-9, 9), (0, 0.001), (-0.7, 0.7), (-2, -1), (0, 9), (1.5, 1.501), (2, 1)]:
        agrees(index, f"{low} <= many < {high}")
        agrees(index, f"not (many > {low} and many <= {high})")
        agrees(index, f"many < {low} or many > {high} or many == 0")
    agrees(index, "many != 0.5")
    agrees(index, "many is null")
    agrees(index, "not (many is null)")


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("text", [
    'brand == "acme"', 'brand != "acme"', 'brand in ["acme", "b7", "none", "b150"]',
    'not (brand in ["acme", "zeta"])', 'brand like "b1%"', 'brand like "acme"', "brand is null",
    'brand > "b5"', 'starts_with(brand, "b19")', 'length(brand) > 3', 'brand like "%m%"',
    'lower(brand) == "acme" or brand is null', 'fill_null(brand, "x") == "x"',
])  # fmt: skip
def test_texts_are_found_by_any_condition_where_there_are_few(spec, text):
    agrees(loaded(spec, TABLE["brand"]), text)


@pytest.mark.parametrize("text", [
    'array_contains(tags, "t3")', 'array_contains_any(tags, ["t1", "t30", "none"])',
    'array_contains_all(tags, ["t1", "t2"])', 'array_contains_all(tags, ["t1", "none"])',
    "array_contains_all(tags, [])", "array_contains_any(tags, [])", "tags is null",
])  # fmt: skip
def test_lists_are_found_by_their_elements(text):
    agrees(loaded(Bitmap(), TABLE["tags"]), text)


@pytest.mark.parametrize("name", ["few", "brand", "tags", "name"])
def test_an_array_has_the_index_of_its_chunks(name):
    whole, halves = TABLE[name].combine_chunks(), pa.concat_tables([TABLE[:7], TABLE[7:]])[name]
    for spec in (Bitmap(),) if name == "tags" else SPECS:
        assert built(spec, whole).contents == built(spec, halves).contents


def test_unique_texts_answer_only_what_can_be_looked_up():
    index = loaded(Sorted(), TABLE["name"])
    agrees(index, 'name == "n00042"')
    agrees(index, 'name >= "n04" and name like "n04%"')
    agrees(index, 'name in ["n00001", "n04999", "n5", "m"]')
    assert index.ask(bound('name like "%7"').tree) is None
    assert index.ask(bound("length(name) > 3").tree) is None


def test_zeros_of_both_signs_are_one_value_and_nan_is_above_no_bound():
    fields = {"x": Float32(nullable=True)}
    values = [0.0, -0.0, float("nan"), 1.0, None, -1.0, float("inf"), 0.1]
    table = pa.table({"x": pa.array(values, pa.float32())})
    for spec in SPECS:
        index = loaded(spec, table["x"])
        for text in ("x == 0", "x != 0", "x > 0", "x <= 0", "x in [0, 0.1]", "x >= 0.1", "1 > x"):
            condition = bind_filter(parse_filter(text), fields)
            assert np.array_equal(index.ask(condition.tree).mask(), mask(condition, table)), text


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.float32()])
def test_numbers_beyond_the_type_of_the_column_lie_outside_it(kind):
    fields = {"x": gv.Int8() if kind == pa.int8() else Int64() if kind == pa.int64() else Float32()}
    table = pa.table({"x": pa.array([-128, 0, 127, 5], kind)})
    for spec in SPECS:
        index = loaded(spec, table["x"])
        for text in ("x < 300", "x > -300", "x == 300", "x != 300", "x in [5, 300]", "x < 1e300"):
            condition = bind_filter(parse_filter(text), fields)
            assert np.array_equal(index.ask(condition.tree).mask(), mask(condition, table)), text


@pytest.mark.parametrize("field", [Float32, Float64, Int64, Timestamp])
def test_numbers_that_repeat_now_and_then_are_found_every_time(field):
    kind = field().arrow_type()
    rng = np.random.default_rng(3)
    numbers = rng.integers(-10_000, 10_000, 3_000)
    column = pa.array(numbers, pa.int64(), mask=rng.random(3_000) < 0.05).cast(kind, safe=False)
    index = loaded(Sorted(), column)
    assert index._rows.starts is None
    fields = {"x": field(nullable=True)}
    table = pa.table({"x": column})
    twice = np.bincount(numbers + 10_000).argmax() - 10_000
    for wanted in (twice, 0, numbers[5], -20_000):
        for text in ("x == {v}", "x != {v}", "x in [{v}]", "x <= {v}", "not (x > {v})"):
            condition = bind_filter(parse_filter(text.format(v=shown(wanted, kind))), fields)
            assert np.array_equal(index.ask(condition.tree).mask(), mask(condition, table)), text


def shown(value, kind):
    if not pa.types.is_timestamp(kind):
        return str(value)
    return f'"{(EPOCH + timedelta(microseconds=int(value))).isoformat()}"'


def test_instants_are_compared_as_instants():
    fields = {"ts": Timestamp(nullable=True)}
    micros = pa.array([0, 1, None, -5, 1_793_491_200_000_000], pa.timestamp("us", tz="UTC"))
    table = pa.table({"ts": micros})
    for text in ('ts >= "1970-01-01T00:00Z"', 'ts in ["1970-01-01T00:00Z"]', 'ts < "2027-01-01"'):
        condition = bind_filter(parse_filter(text), fields)
        answer = loaded(Sorted(), table["ts"]).ask(condition.tree)
        assert np.array_equal(answer.mask(), mask(condition, table)), text


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("column", [
    pa.chunked_array([], pa.string()), pa.chunked_array([[None, None]], pa.string()),
    pa.chunked_array([["b"], ["a", None]], pa.string()), pa.array(["a"]),
])  # fmt: skip
def test_columns_without_rows_or_values_or_in_chunks_have_indexes_too(spec, column):
    index = loaded(spec, column)
    fields = {"x": String(nullable=True)}
    for text in ('x == "a"', "x is null", 'x != "a"', 'x in ["a", "c"]'):
        condition = bind_filter(parse_filter(text), fields)
        found = index.ask(condition.tree).mask()
        assert np.array_equal(found, mask(condition, pa.table({"x": column}))), text


def test_files_are_mapped_not_copied():
    files = built(Sorted(), TABLE["many"]).files()
    index = scalar.load(Sorted(), files)
    assert index.nbytes <= len(files["scalar.arrow"].data)
    assert np.shares_memory(index._rows.rows, files["scalar.arrow"].data)


@pytest.mark.parametrize(("spec", "name", "most"), [
    (Bitmap(), "few", 0.8), (Bitmap(), "brand", 2.0), (Sorted(), "id", 14.2),
    (Sorted(), "few", 6.2),
])  # fmt: skip
def test_an_index_takes_few_bytes_for_each_row(spec, name, most):
    assert loaded(spec, TABLE[name]).nbytes / ROWS <= most


def test_indexed_fields_are_not_read():
    view = indexed_view(TABLE, {"brand": Bitmap(), "many": Sorted(), "tags": Bitmap()})
    part, cache = part_of(view, FIELDS)
    condition = bound('brand == "acme" and 0 < many < 1 and not array_contains(tags, "t2")')
    assert np.array_equal(mask_part(condition, part, cache), mask(condition, TABLE))
    assert view.read == []
    assert indexed_fields(condition, part, cache) == {
        "brand": "bitmap", "many": "sorted", "tags": "bitmap",
    }  # fmt: skip


def test_beside_an_index_only_the_rest_is_read():
    view = indexed_view(TABLE, {"brand": Bitmap()})
    part, cache = part_of(view, FIELDS)
    condition = bound('brand == "acme" and (many > 0.5 or few == 1) or id < 7 and brand == "zeta"')
    assert np.array_equal(mask_part(condition, part, cache), mask(condition, TABLE))
    assert sorted(view.read) == ["few", "id", "many"]


def test_nothing_more_is_read_once_no_row_is_left():
    view = indexed_view(TABLE, {"brand": Bitmap()})
    part, cache = part_of(view, FIELDS)
    kept = keep_part(bound('brand == "nobody" and name like "%7"'), part, cache)
    assert (kept.num_rows, view.read) == (0, [])


def test_hidden_rows_stay_hidden():
    visible = np.arange(ROWS) % 3 > 0
    view = indexed_view(TABLE, {"few": Bitmap()}, visible)
    part, cache = part_of(view, FIELDS)
    condition = bound("not (few == 2) and name < 'n02'")
    kept = keep_part(condition, part, cache)
    wanted = TABLE.filter(mask(condition, TABLE) & visible)
    assert kept.column("id").to_pylist() == wanted["id"].to_pylist()


def test_an_index_is_opened_once():
    cache = DerivedCache(1 << 28)
    view = indexed_view(TABLE, {"few": Bitmap()})
    for text in ("few == 1", "few > 2", "few is null"):
        mask_part(bound(text), part_of(view, FIELDS, cache)[0], cache)
    assert view.indexes["few"].opened == 1


def test_a_computed_column_hides_the_index_of_its_name():
    view = indexed_view(TABLE, {"few": Bitmap()})
    frame = Frame(build.scan(MemorySource(Columns(FIELDS, "id", "t"), view)), session())
    found = frame.with_columns(few=gv.col("few") + 100).filter("few > 100").count()
    assert found == frame.filter("few > 0").count() > 0


def test_segments_with_and_without_an_index_answer_alike():
    parts = [TABLE.slice(start, 1000) for start in range(0, ROWS, 1000)]
    spec = {"few": Bitmap(), "many": Sorted()}
    views = [indexed_view(part, spec if number % 2 else {}) for number, part in enumerate(parts)]
    frame = Frame(build.scan(MemorySource(Columns(FIELDS, "id", "t"), *views)), session())
    text = 'few in [1, 3] and many > 0.2 and brand != "acme"'
    found = frame.filter(text).to_arrow()
    assert found["id"].to_pylist() == TABLE.filter(mask(bound(text), TABLE))["id"].to_pylist()


def session():
    return Session(memory_limit=1 << 30, cache=DerivedCache(1 << 28))


@pytest.mark.parametrize(("spec", "kind", "error", "code", "says"), [
    (Bitmap(), Vector(4), QueryError, "GV-340", "indexes of their own"),
    (Sorted(), List(String()), QueryError, "GV-340", "Bitmap"),
    (Sorted(), JSON(), UnsupportedError, "GV-341", "a field of their own"),
])  # fmt: skip
def test_fields_that_cannot_have_an_index_say_what_can(spec, kind, error, code, says):
    with pytest.raises(error, match=says) as raised:
        scalar.check_field(spec, "f", kind)
    assert raised.value.code == code


def test_fields_that_can_have_an_index_pass():
    for kind in (String(), Float32(), Int64(), Timestamp(), gv.Bool()):
        assert [scalar.check_field(spec, "f", kind) for spec in SPECS] == [None, None]
    scalar.check_field(Bitmap(), "f", List(String()))


@pytest.mark.parametrize(("name", "spec"), [
    ("few", Bitmap()), ("many", Sorted()), ("name", Sorted()), ("brand", Bitmap()),
    ("tags", Bitmap()), ("id", Sorted()),
])  # fmt: skip
def test_few_values_get_a_bitmap_many_are_sorted(name, spec):
    assert scalar.choose(TABLE[name]) == spec


def test_a_file_of_another_layout_is_refused():
    (data,) = built(Sorted(), TABLE["few"]).contents.values()
    changed = data.replace(b"gpuvec.format\x00", b"gpuvec.farmot\x00")
    files = {"scalar.arrow": IndexFile(data=np.frombuffer(changed, np.uint8), path=None)}
    with pytest.raises(UnsupportedError, match="build the index anew") as raised:
        scalar.load(Sorted(), files)
    assert raised.value.code == "GV-342"


def test_an_estimate_of_a_build_is_no_smaller_than_the_index():
    for name in ("id", "many", "name"):
        parts = scalar.build_bytes(Sorted(), ROWS, TABLE[name].nbytes)
        assert parts["index"] >= loaded(Sorted(), TABLE[name]).nbytes
