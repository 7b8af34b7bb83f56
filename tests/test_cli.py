"""The command line, run as a user runs it: in a process of its own."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpuvec as gv

DIM = 16


def run(*args: str, cwd, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "gpuvec.cli", *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with rows and queries as files, imported into ./shop/items."""
    folder = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, DIM)).astype(np.float32)
    rows = pa.table(
        {
            "id": np.arange(300),
            "price": np.arange(300) / 10,
            "emb": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM),
        }
    )
    pq.write_table(rows.slice(0, 200), folder / "a.parquet")
    pq.write_table(rows.slice(200), folder / "b.parquet")
    pq.write_table(rows.slice(0, 5).select(["id", "emb"]), folder / "q.parquet")
    out = run(
        "import", "*.parquet".replace("*", "[ab]*"), "--to", "./shop/items", "--primary-key", "id",
        "--columns", "emb=embedding", cwd=folder,
    )  # fmt: skip
    assert "300 of 300 rows" in out
    return folder


def test_search_writes_parquet(shop):
    run(
        "search",
        "./shop/items",
        "--queries",
        "q.parquet",
        "-k",
        "3",
        "--out",
        "hits.parquet",
        cwd=shop,
    )
    hits = pq.read_table(shop / "hits.parquet").to_pydict()
    assert hits["rank"] == [1, 2, 3] * 5
    assert hits["id"][::3] == [0, 1, 2, 3, 4]


def test_search_prints_a_table_of_filtered_hits(shop):
    out = run(
        "search",
        "./shop/items",
        "--queries",
        "q.parquet",
        "-k",
        "2",
        "--filter",
        "price >= 1",
        cwd=shop,
    )
    assert "distance" in out


def test_inspect_tells_rows_and_segments(shop):
    facts = json.loads(run("inspect", "./shop/items", "--segments", "--json", cwd=shop))
    assert facts["rows"] == 300
    assert facts["schema"]["primary_key"] == "id"
    assert sum(part["rows"] for part in facts["segments"]) == 300
    assert json.loads(run("inspect", "./shop", "--json", cwd=shop))[0]["collection"] == "items"


def test_an_error_is_one_line_with_its_code(shop):
    err = run(
        "search",
        "./shop/items",
        "--queries",
        "q.parquet",
        "--filter",
        "prcie < 1",
        cwd=shop,
        code=1,
    )
    assert err.startswith('NotFoundError [GV-104]: no field "prcie"')
    assert "price" in err


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["search", "./nothing/items", "--queries", "q.parquet"], "no database at ./nothing"),
        (["search", "./shop/items", "--queries", "none.parquet"], "no file at none.parquet"),
        (["search", "./shop/itms", "--queries", "q.parquet"], 'Did you mean "items"'),
        (["import", "none-*.parquet", "--to", "./shop/items"], "no file at none-*.parquet"),
        (["inspect", "items"], "names no collection"),
    ],
)
def test_bad_input_says_what_was_wanted(shop, args, text):
    assert text in run(*args, cwd=shop, code=1)


def test_nothing_is_made_for_a_bad_path(shop):
    run("search", "./nothing/items", "--queries", "q.parquet", cwd=shop, code=1)
    assert not (shop / "nothing").exists()


def test_wrong_usage_exits_with_2(shop):
    run("search", "./shop/items", cwd=shop, code=2)


def test_doctor_looks_at_every_part(shop):
    found = json.loads(run("doctor", "--json", cwd=shop))
    assert [item["part"] for item in found] == ["python", "cpu", "memory", "gpu", "faiss", "disk"]


def test_config_show_names_origins(shop):
    assert "default" in run("config", "show", cwd=shop)


def test_the_shop_opens_from_python(shop):
    with gv.connect(shop / "shop") as db:
        assert db["items"].count() == 300
