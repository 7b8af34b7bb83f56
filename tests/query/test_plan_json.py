"""Plans as JSON: what is read back gives the same rows, and holds no code."""

import datetime
import json

import numpy as np
import pytest

import gpuvec as gv
from gpuvec.expr.parse import parse_filter
from gpuvec.expr.tree_json import array_from_json, array_to_json, expr_from_json, expr_to_json
from gpuvec.expr.walk import same
from gpuvec.query.collect import collect_rows
from gpuvec.query.plan_json import plan_from_json, plan_to_json
from gpuvec.query.plan_text import plan_lines
from gpuvec.query.session import new_session

c = gv.col
SESSION = new_session(1 << 30)


class InMemory:
    """Keeps sources and vectors in lists."""

    def __init__(self):
        self.held = []

    def _keep(self, held):
        self.held.append(held)
        return {"number": len(self.held) - 1}

    keep_source = keep_vectors = _keep

    def source(self, data):
        return self.held[data["number"]]

    vectors = source


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(3)
    when = np.datetime64("2026-01-01") + np.arange(60).astype("timedelta64[D]")
    data = {
        "id": np.arange(60),
        "name": [None if n % 9 == 0 else f"n{n % 5}" for n in range(60)],
        "price": rng.random(60),
        "when": when.astype("datetime64[us]"),
        "tags": [["a", "b"][: n % 3] for n in range(60)],
        "v": rng.standard_normal((60, 3)).astype(np.float32),
    }
    return gv.frame(data, primary_key="id")


Q = np.random.default_rng(4).standard_normal((7, 3)).astype(np.float32)
NOON = datetime.datetime(2026, 1, 20, 12, tzinfo=datetime.UTC)

SHAPES = {
    "filter": lambda f: f.filter((c("price") < 0.5) & ~c("name").is_null() | c("name").like("n1%")),
    "time": lambda f: f.filter(c("when") > NOON),
    "lists": lambda f: f.filter(c("tags").contains_any(["b"]) & (c("tags").length() > 1)),
    "get": lambda f: f.get([5, 3, 99, 7]),
    "columns": lambda f: f.select("id", (c("price") * 2 + 1).alias("twice")).drop("id"),
    "sort": lambda f: f.sort("name", "price", descending=[True, False]).limit(9),
    "sample": lambda f: f.sample(11, seed=5),
    "join": lambda f: f.join(gv.frame({"id": [1, 2, 3], "w": [7, 8, 9]}), on="id", how="left"),
    "semi": lambda f: f.join(gv.frame({"n": ["n1"]}), left_on="name", right_on="n", how="semi"),
    "concat": lambda f: f.filter("id < 5").concat(f.filter("id > 50")),
    "distinct": lambda f: f.distinct("name"),
    "group": lambda f: f.group_by("name").agg(
        n=gv.count(), spread=c("price").max() - c("price").min(), mean=(c("price") * 2).mean()
    ),
    "head": lambda f: f.group_by("name").head(2),
    "describe": lambda f: f.describe(),
    "search": lambda f: f.filter("price > 0.1").search(Q, k=4, metric="l2"),
    "ring": lambda f: f.search(Q, radius=(0.1, 2.0)).with_columns(near=c("distance") < 1),
    "frame": lambda f: f.search(f.filter("id % 9 == 0"), k=3, exclude_self=True, query_id="name"),
    "grouped": lambda f: f.search(Q, k=2, group_by="name", group_size=2, exact=True),
    "distance": lambda f: f.with_columns(d=c("v").distance(Q[0])).filter(c("d") < 0.7),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_plan_read_back_gives_the_same_rows(rows, shape):
    frame, keeper = shape(rows), InMemory()
    text = json.dumps(plan_to_json(frame.plan, keeper))
    again = plan_from_json(json.loads(text), keeper)
    wanted, _ = collect_rows(frame.plan, SESSION)
    got, _ = collect_rows(again, SESSION)
    assert got.order == wanted.order
    assert got.table.equals(wanted.table)
    assert plan_lines(again) == plan_lines(frame.plan)


def test_an_expression_that_does_not_fit_its_columns_is_refused(rows):
    keeper = InMemory()
    data = plan_to_json(rows.filter("price < 0.5").plan, keeper)
    data["input"]["columns"]["fields"][2]["name"] = "cost"
    with pytest.raises(gv.NotFoundError, match="GV-104"):
        plan_from_json(data, keeper)


TEXTS = [
    "a == 1 and b != 'x' or not (c is null)",
    "x in [1, 2, 3] and y not in ['a']",
    "x ** 2 / 3 - -y % 4 > 1e300",
    'meta["a"][0] > 1 and t < ISO "2026-01-01T00:00:00Z"',
    "array_contains_all(tags, ['a', 'b']) or length(name) == 9223372036854775807",
    "v like 'x%' and 1 <= z < 2",
]


@pytest.mark.parametrize("text", TEXTS)
def test_an_expression_read_back_is_the_same_tree(text):
    tree = parse_filter(text)
    assert same(tree, expr_from_json(json.loads(json.dumps(expr_to_json(tree)))))


@pytest.mark.parametrize("value", [0.1, float("inf"), float("nan"), -0.0, 2**80, None, True, "ü"])
def test_values_stay_exact(value):
    tree = gv.lit(value)
    assert same(tree, expr_from_json(json.loads(json.dumps(expr_to_json(tree)))))


def test_arrays_stay_exact():
    import pyarrow as pa

    for array in (pa.array([1, None, 3]), pa.array([], pa.string()), pa.array([0.1], pa.float32())):
        assert array_from_json(json.loads(json.dumps(array_to_json(array)))).equals(array)
