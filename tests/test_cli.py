"""The command line, run as a user runs it: in a process of its own."""

import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpuvec as gv

DIM = 16
SEARCH = "search ./shop/items --queries q.parquet"


def run(line: str, cwd, code: int = 0, **variables: str) -> str:
    """Run `gpuvec LINE`; return what it printed, of an error what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "gpuvec.cli", *shlex.split(line)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "100", **variables},
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with rows and queries as files, imported into ./shop/items."""
    folder = tmp_path_factory.mktemp("cli")
    vectors = np.random.default_rng(0).standard_normal((300, DIM)).astype(np.float32)
    rows = pa.table(
        {"id": np.arange(300), "price": np.arange(300) / 10, "emb": pa.array(list(vectors))}
    )
    assert pa.types.is_list(rows["emb"].type)  # as pandas writes vectors
    pq.write_table(rows.slice(0, 200), folder / "a.parquet")
    pq.write_table(rows.slice(200), folder / "b.parquet")
    pq.write_table(rows.slice(0, 5).select(["id", "emb"]), folder / "q.parquet")
    (folder / "torn.parquet").write_bytes((folder / "a.parquet").read_bytes()[:-100])
    line = "import '[ab].parquet' --to ./shop/items --primary-key id --columns emb=embedding"
    assert "300 of 300 rows stored" in run(line, folder)
    return folder


def test_search_writes_parquet(shop):
    run(f"{SEARCH} -k 3 --out hits.parquet", shop)
    hits = pq.read_table(shop / "hits.parquet").to_pydict()
    assert hits["rank"] == [1, 2, 3] * 5
    assert hits["id"][::3] == [0, 1, 2, 3, 4]


def test_search_prints_a_table_of_filtered_hits(shop):
    out = run(f"{SEARCH} -k 2 --filter 'price >= 29.7' --select 'id, price'", shop)
    shown = [line.split("│")[4].strip() for line in out.splitlines() if line.startswith("│")]
    assert len(shown) == 10
    assert set(shown) <= {"297", "298", "299"}


def test_a_search_without_hits_says_so(shop):
    assert "no rows" in run(f"{SEARCH} --filter 'price > 1000'", shop)


def test_a_second_import_may_skip_what_is_there(shop):
    out = run("import b.parquet --to ./shop/items --columns emb=embedding --on-conflict skip", shop)
    assert "0 of 100 rows stored in ./shop/items, 100 skipped" in out


def test_a_dry_run_shows_what_each_column_becomes(shop):
    line = "import a.parquet --to ./shop/new --primary-key id --columns 'emb=vec,price='"
    out = run(f"{line} --dry-run", shop)
    assert "Vector(16)" in out
    assert "left out" in out
    assert "200 rows of 1 file would go to a new collection ./shop/new" in out
    run("search ./shop/new --queries q.parquet", shop, code=1)


def test_a_collection_made_for_files_that_do_not_fit_goes_again(shop):
    twice = pq.read_table(shop / "a.parquet")
    pq.write_table(pa.concat_tables([twice, twice.slice(0, 1)]), shop / "twice.parquet")
    error = run("import twice.parquet --to ./shop/twice --primary-key id", shop, code=1)
    assert "GV-663" in error
    assert "collections: 1" in error or "items" in run("inspect ./shop", shop)
    assert "201 rows" not in run("inspect ./shop", shop)
    run("import twice.parquet --to ./shop/twice --primary-key id --on-conflict skip", shop)
    assert json.loads(run("inspect ./shop/twice --json", shop))["rows"] == 200
    with gv.connect(shop / "shop") as db:
        db.drop_collection("twice")


def test_inspect_tells_rows_and_segments(shop):
    facts = json.loads(run("inspect ./shop/items --segments --json", shop))
    assert facts["rows"] == 300
    assert facts["schema"]["primary_key"] == "id"
    assert sum(part["rows"] for part in facts["segments"]) == 300
    assert json.loads(run("inspect ./shop --json", shop))[0]["collection"] == "items"


def test_inspect_fits_a_terminal(shop):
    out = run("inspect ./shop", shop, COLUMNS="60")
    assert max(map(len, out.splitlines())) <= 60 or "more column" in out
    assert "items" in out
    assert "300" in run("inspect ./shop/items --segments", shop)


def test_inspect_keeps_tags_and_shows_mappings_as_lines(shop):
    with gv.connect(shop / "tagged") as db:
        items = db.create_collection("items", data={"id": [1], "n": [2]}, primary_key="id")
        items.tag("cleaned")
        items.create_index("n", gv.index.Sorted())
    out = run("inspect ./tagged/items --versions", shop, COLUMNS="110")
    assert "┃ tags" in out
    assert "cleaned" in out
    assert "more column" in out, "110 columns do not hold all"
    assert "{" not in out.partition("rows ")[2]
    assert "n: Sorted" in out
    assert "waits: 0" in out


def test_inspect_tells_where_the_rows_of_an_external_collection_lie(shop):
    with gv.connect(shop / "outside") as db:
        db.create_collection("crawl", external=str(shop / "b.parquet"), primary_key="id")
        db.create_collection("items", data={"id": [1], "n": [2]}, primary_key="id")
    pattern = str(shop / "b.parquet")
    assert f"external      {pattern}" in run("inspect ./outside/crawl", shop)
    told = json.loads(run("inspect ./outside --json", shop))
    assert [facts.get("external") for facts in told] == [pattern, None]
    assert "items" in run("inspect ./outside", shop)
    assert "crawl: its rows stay in the original files" in run("copy ./outside ./again", shop)


def test_a_dry_run_keeps_what_columns_become(shop):
    table = pa.table({"id": [1], "a_column_with_a_long_name": [1], "x": [[{"a": 1, "b": "c"}]]})
    pq.write_table(table, shop / "wide.parquet")
    line = "import wide.parquet --to ./shop/wide --primary-key id --dry-run"
    assert "becomes" in run(line, shop, COLUMNS="60").partition("more column")[0]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (f"{SEARCH} --filter 'prcie < 1'", 'NotFoundError [GV-104]: no field "prcie"'),
        ("search ./nothing/items --queries q.parquet", "no database at ./nothing"),
        ("search ./shop/items --queries none.parquet", "no file at none.parquet"),
        ("search ./shop/items --queries '{folder}/no*.parquet'", "no file at"),
        ("search ./shop/items --queries torn.parquet", "CorruptError [GV-709]: cannot read torn"),
        ("search ./shop/itms --queries q.parquet", 'Did you mean "items"'),
        (f"{SEARCH} --out none/hits.parquet", "no folder at none"),
        (f"{SEARCH} --exact --recall 0.9", "GV-"),
        ("bench ./shop/items --recall 0.9,much", "GV-711]: cannot read the recall targets"),
        ("bench ./shop/items --recall 1.5", "numbers above 0 and at most 1"),
        ("bench ./shop/items --filter 'price < 0'", "GV-710]: there are no rows"),
        ("bench ./shop/items --plot none/c.png", "no folder at none"),
        ("import none-*.parquet --to ./shop/items", "no file at none-*.parquet"),
        ("import torn.parquet --to ./shop/items", "torn.parquet"),
        ("import a.parquet --to ./shop/new", "--primary-key COLUMN, one of: id, price, emb"),
        ("import a.parquet --to ./shop/items --columns emb", 'cannot read the rename "emb"'),
        ("import a.parquet --to ./shop/items --columns em=e", 'Did you mean "emb"'),
        ("import q.parquet --to ./shop/items --columns emb=embedding", "GV-"),
        ("inspect items", "names no collection"),
        ("inspect ./nope", "./nope"),
        ("inspect ./nope/items", "looked for {folder}/nope/gpuvec.json"),
        ("inspect memory://nothing/items", "GV-703]: no database at memory://nothing"),
        ("copy ./nope ./there", "GV-703]: no database at ./nope"),
    ],
)
def test_bad_input_says_what_was_wanted(shop, line, text):
    assert text.replace("{folder}", str(shop)) in run(line.format(folder=shop), shop, code=1)


def test_nothing_is_made_for_a_bad_path(shop):
    run("search ./nothing/items --queries q.parquet", shop, code=1)
    assert not (shop / "nothing").exists()


def test_wrong_usage_exits_with_2(shop):
    run("search ./shop/items", shop, code=2)


def test_doctor_looks_at_every_part(shop):
    found = json.loads(run("doctor --json", shop))
    assert [item["part"] for item in found] == ["python", "cpu", "memory", "gpu", "faiss", "disk"]
    assert "disk" in run("doctor", shop)


def test_brackets_in_data_are_printed(tmp_path):
    vectors = pa.array([[1.0, 0.0], [0.0, 1.0]], pa.list_(pa.float32(), 2))
    rows = pa.table({"id": [1, 2], "name": ["[red]apple", "pear [1]"], "v": vectors})
    pq.write_table(rows, tmp_path / "rows.parquet")
    run("import rows.parquet --to ./shop/items --primary-key id", tmp_path)
    found = run("search ./shop/items --queries rows.parquet -k 1", tmp_path)
    assert "[red]apple" in found
    assert "pear [1]" in found


def test_bench_measures_every_target_beside_the_exact_search(shop):
    told = json.loads(run("bench ./shop/items --sample 40 --recall 0.9,1 --json", shop))
    assert (told["queries"], told["rows"]) == (40, 300)
    assert [line["target"] for line in told["lines"]] == [None, 0.9, 1.0]
    assert all(line["recall"] == 1 and line["batch_per_s"] > 0 for line in told["lines"])


def test_bench_takes_filters_and_real_queries_and_draws(shop):
    line = "bench ./shop/items --filter 'price < 10' --queries q.parquet --recall 0.9 --plot c.png"
    out = run(line, shop)
    assert "5 queries (given queries) of 100 rows" in out
    assert "recall 0.9" in out
    assert (shop / "c.png").read_bytes().startswith(b"\x89PNG")


def test_exact_searches_and_indexes_are_at_hand(shop):
    run(f"{SEARCH} -k 3 --exact --out exact.parquet", shop)
    assert pq.read_table(shop / "exact.parquet")["id"].to_pylist()[::3] == [0, 1, 2, 3, 4]
    assert json.loads(run("inspect ./shop/items --indexes --json", shop))["indexes"] == []


def test_config_show_names_origins(shop):
    out = run("config show", shop, GPUVEC_THREADS="1")
    assert "GPUVEC_THREADS" in out
    assert "default" in out


def test_the_version_is_printed(shop):
    assert run("--version", shop).strip() == gv.__version__


def test_the_shop_opens_from_python(shop):
    with gv.connect(shop / "shop") as db:
        assert db["items"].count() == 300
        assert isinstance(db["items"].schema["embedding"], gv.Vector)
