"""What expressions give: the rules one by one. `test_against_oracle.py` tries them all together."""

import json
import time
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from gpuvec.errors import FilterError
from gpuvec.expr.bind import as_filter, bind, bind_filter
from gpuvec.expr.evaluate import evaluate, mask
from gpuvec.expr.tree import col, lit
from gpuvec.schema import (
    JSON,
    Bool,
    Float32,
    Float64,
    Int8,
    Int64,
    List,
    String,
    Timestamp,
    Vector,
)

BIG = 2**53 + 1
FIELDS = {
    "id": Int64(nullable=True),
    "small": Int8(nullable=True),
    "price": Float32(nullable=True),
    "f": Float64(),
    "brand": String(nullable=True),
    "ok": Bool(nullable=True),
    "ts": Timestamp(nullable=True),
    "tags": List(String(), nullable=True),
    "nums": List(Float32()),
    "meta": JSON(nullable=True),
    "v": Vector(2),
}
META = [
    '{"a": 1, "b": ["x", 2, 2.5, [1]], "c": {"d": true}, "s": "10%"}',
    '{"a": "x", "a": "y", "b": [], "\\u0063": {"d": false}}',
    None,
    '[{"a": 9007199254740993}, 1e3, "\\ud83d\\ude00"]',
]
TABLE = pa.table(
    {
        "id": pa.array([1, BIG, -(2**63), None], pa.int64()),
        "small": pa.array([1, None, -128, 127], pa.int8()),
        "price": pa.array([0.1, None, 20, -0.0], pa.float32()),
        "f": [1.5, 2.0**53, float("nan"), float("inf")],
        "brand": ["acme", "Zürich, red shoe", None, "a%\n_"],
        "ok": [True, False, None, True],
        "ts": pa.array(
            [datetime(2026, 1, 1), None, datetime(2026, 11, 1, 12), datetime(1960, 1, 1)],
            pa.timestamp("us", tz="UTC"),
        ),
        "tags": [["a", "b"], [], None, ["c"]],
        "nums": pa.array([[0.1, 2], [3], [], [-0.0, 1]], pa.list_(pa.float32())),
        "meta": META,
    }
)
T, F, N = True, False, None


def column(expr):
    """Return what an expression gives for the four rows."""
    return evaluate(bind(expr, FIELDS), TABLE).to_pylist()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("price < 10", [T, N, F, T]),
        ("not (price < 10)", [F, N, T, F]),
        ("price < 10 or id == 9007199254740993", [T, T, F, T]),
        ("price < 10 and ok", [T, F, F, T]),
        ("price is null or price < 0", [F, T, F, F]),
        ("ok", [T, F, N, T]),
        ("ok == false", [F, T, N, F]),
        ("1 < 2", [T, T, T, T]),
        # numbers are exact, whatever their types
        ("id == 9007199254740992", [F, F, F, N]),
        ("id > f", [F, T, F, N]),
        ("id == f", [F, F, F, N]),
        ("id >= -9223372036854775808.0", [T, T, T, N]),
        ("id < 99999999999999999999", [T, T, T, N]),
        ("id < 1.5", [T, F, T, N]),
        ("f < 9007199254740993", [T, T, F, F]),
        ("f == 9007199254740993", [F, F, F, F]),
        ("f != f", [F, F, T, F]),
        ("small < 1000", [T, N, T, T]),
        ("price == 0.1", [T, N, F, F]),
        ("price in [0.1, 0]", [T, N, F, T]),
        ("id in [1, 2.5, 99999999999999999999]", [T, F, F, N]),
        ("id not in []", [T, T, T, N]),
        ("f in [1.5]", [T, F, F, F]),
        # arithmetic
        ("id / 0 == 1", [N, N, N, N]),
        ("id % 0 == 1", [N, N, N, N]),
        ("small % -3 == 1", [T, N, F, T]),
        ("small % 3 == -2", [F, N, T, F]),
        ("id * 2 == 2", [T, F, N, N]),
        ("-id == 9223372036854775808", [F, F, N, N]),
        ("id - 1 < 0", [F, F, N, N]),
        ("small * small == 16384", [F, N, T, F]),
        ("7 / 2 == 3.5", [T, T, T, T]),
        ("2 ** -1 == 0.5", [T, T, T, T]),
        ("abs(id) > 0", [T, T, N, N]),
        ("floor(f) == 1", [T, F, F, F]),
        ("fill_null(price, 3) == 3", [F, T, F, F]),
        # texts
        ("brand like 'a%'", [T, F, N, T]),
        ("brand like '%'", [T, T, N, T]),
        ("brand like 'a\\%__'", [F, F, N, T]),
        ("brand like '_c_e'", [T, F, N, F]),
        ("brand like '%rich%shoe'", [F, T, N, F]),
        ("lower(brand) like 'z%'", [F, T, N, F]),
        ("length(brand) == 16", [F, T, N, F]),
        ("text_match(brand, 'SHOE zürich')", [F, T, N, F]),
        ("text_match(brand, 'sho')", [F, F, N, F]),
        ("text_match(brand, '')", [F, F, N, F]),
        ("ends_with(brand, 'me') or contains(brand, '%')", [T, F, N, T]),
        # times
        ("ts < '2026-06-01'", [T, N, F, T]),
        ("ts == '2026-11-01T13:00+01:00'", [F, N, T, F]),
        ("ts in ['2026-01-01', '1960-01-01']", [T, N, F, T]),
        # lists
        ("array_contains(tags, 'a')", [T, F, N, F]),
        ("array_contains_all(tags, ['a', 'b', 'a'])", [T, F, N, F]),
        ("array_contains_all(tags, [])", [T, T, N, T]),
        ("array_contains_any(tags, ['b', 'c'])", [T, F, N, T]),
        ("array_contains(nums, 0.1)", [T, F, F, F]),
        ("array_contains_all(nums, [0, 1])", [F, F, F, T]),
        ("array_contains_all(nums, [3, 99999999999999999999999])", [F, F, F, F]),
        ("array_length(tags) == 0", [F, T, N, F]),
        ("tags[1] == 'b'", [T, N, N, N]),
        # JSON: wrong kinds are null, the last of equal names counts
        ('meta["a"] == 1', [T, N, N, N]),
        ('meta["a"] != 2', [T, N, N, N]),
        ('meta["a"] == "y"', [N, T, N, N]),
        ('meta[0]["a"] == 9007199254740993', [N, N, N, T]),
        ('meta[0]["a"] == 9007199254740992', [N, N, N, F]),
        ("meta[1] == 1000", [N, N, N, T]),
        ('meta[2] == "😀"', [N, N, N, T]),
        ('meta["c"]["d"]', [T, F, N, N]),
        ('not meta["c"]["d"]', [F, T, N, N]),
        ('exists meta["c"]', [T, T, F, F]),
        ('meta["a"] in [1, "y"]', [T, T, N, N]),
        ('meta["a"] + 1 == 2', [T, N, N, N]),
        ('meta["a"] == meta["a"]', [T, T, N, N]),
        ('meta["c"]["d"] == meta["c"]["d"]', [T, T, N, N]),
        ('meta["s"] like "10\\%"', [T, N, N, N]),
        ('json_contains(meta["b"], 2.0)', [T, F, N, N]),
        ('json_contains_all(meta["b"], [2.5, "x"])', [T, F, N, N]),
        ('json_contains_any(meta["b"], [true, 7])', [F, F, N, N]),
        ('array_length(meta["b"]) == 4', [T, F, N, N]),
        ("array_length(meta) == 3", [N, N, N, T]),
    ],
)
def test_conditions_follow_sql(text, wanted):
    bound = bind_filter(as_filter(text), FIELDS)
    assert evaluate(bound, TABLE).to_pylist() == wanted
    assert mask(bound, TABLE).tolist() == [truth is T for truth in wanted]


def test_expressions_give_columns_of_their_type():
    assert column(col("small") + 1) == [2, None, -127, 128]
    assert column(col("tags")[0]) == ["a", None, None, "c"]
    assert column(col("meta")["b"]) == ['["x", 2, 2.5, [1]]', "[]", None, None]
    assert column(lit(3)) == [3, 3, 3, 3]
    assert column(lit(datetime(2026, 1, 1, tzinfo=UTC)))[0] == datetime(2026, 1, 1, tzinfo=UTC)
    assert column(col("brand").upper().alias("x"))[0] == "ACME"
    found = evaluate(bind(col("price") * 2, FIELDS), TABLE)
    assert found.type == pa.float64()


def test_a_table_in_pieces_gives_the_same_as_a_whole_one():
    pieces = pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1, 0), TABLE.slice(1, 3)])
    for text in ("price < 10", "tags[1] == 'b'", "array_contains(nums, 1)", 'meta["a"] == "y"'):
        bound = bind_filter(as_filter(text), FIELDS)
        assert mask(bound, pieces).tolist() == mask(bound, TABLE).tolist()


def test_no_rows_give_no_rows():
    bound = bind_filter(as_filter('price < 10 and meta["a"] == 1'), FIELDS)
    empty = TABLE.slice(0, 0)
    assert mask(bound, empty).tolist() == []
    assert evaluate(bound, empty).type == pa.bool_()
    assert mask(bound, TABLE.schema.empty_table()).tolist() == []


def test_distances_come_from_the_caller():
    bound = bind(col("v").distance([1, 2]) + col("v").distance([3, 4], "ip"), FIELDS)
    asked = []

    def distance(node):
        asked.append((node.field, node.metric, node.values.tolist()))
        return pa.array([1.0, None, 3.0, 4.0], pa.float32())

    found = evaluate(bound, TABLE.select([]), distance=distance)
    assert found.to_pylist() == [2.0, None, 6.0, 8.0]
    assert asked == [("v", "cosine", [1.0, 2.0]), ("v", "ip", [3.0, 4.0])]
    pieces = pa.concat_tables([TABLE.slice(0, 3), TABLE.slice(3)])
    near = bind_filter((col("v").distance([1, 2]) < 3.5) & (col("id") != 0), FIELDS)
    numbers = np.arange(4, dtype=np.float32)
    assert mask(near, pieces, distance=lambda _: numbers).tolist() == [True, True, True, False]


def test_what_is_no_condition_is_no_mask():
    with pytest.raises(FilterError, match="GV-202"):
        mask(bind(col("id"), FIELDS), TABLE)


def test_a_dynamic_column_is_found_by_its_bare_name():
    fields = {"id": Int64(), "_gv_dynamic": String(nullable=True)}
    table = pa.table(
        {"id": [1, 2, 3], "_gv_dynamic": ['{"color":"red","n":2}', None, '{"color":7}']}
    )
    for text, wanted in (
        ("color == 'red'", [T, F, F]),
        ("n < 3 and id == 1", [T, F, F]),
        ("color is null", [F, T, F]),
        ("$meta['color'] == 7", [F, F, T]),
    ):
        assert mask(bind_filter(as_filter(text), fields), table).tolist() == wanted


def test_broken_json_gives_nulls_and_harms_nothing():
    texts = [
        "{",
        '{"a',
        '{"a":',
        '{"a":"\\u12',
        "",
        "nonsense",
        '{"a":[1,',
        '"\\',
        '{"a" 1}',
        "[[[[",
    ]
    table = pa.table({"meta": texts})
    for text in (
        'meta["a"] == 1',
        'json_contains(meta["a"], 7)',
        "meta[0][0] is null",
        "meta == 'x'",
    ):
        assert len(mask(bind_filter(as_filter(text), FIELDS), table)) == len(texts)


def test_a_million_rows_take_milliseconds():
    count = 1_000_000
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "id": np.arange(count),
            "price": rng.random(count, np.float32),
            "brand": rng.choice(["acme", "zeta", "bolt"], count),
        }
    )
    bound = bind_filter(as_filter("0.1 <= price < 0.2 and brand in ['acme', 'zeta']"), FIELDS)
    start = time.perf_counter()
    found = mask(bound, table)
    assert time.perf_counter() - start < 1.0
    assert 0.06 < found.mean() < 0.075


def test_json_paths_are_searched_without_a_python_loop():
    texts = [json.dumps({"name": f"n{n}", "tags": ["a", str(n)], "k": n}) for n in range(50_000)]
    table = pa.table({"meta": texts})
    bound = bind_filter(as_filter('meta["k"] < 100 and json_contains(meta["tags"], "7")'), FIELDS)
    mask(bound, table)
    start = time.perf_counter()
    assert np.flatnonzero(mask(bound, table)).tolist() == [7]
    assert time.perf_counter() - start < 0.5
