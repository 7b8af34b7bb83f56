"""Jobs that a file describes, and the commands about jobs."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import gpuvec as gv
from gpuvec.api.job_file import FIELDS, read_job_file
from gpuvec.cli import app

RNG = np.random.default_rng(8)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a database of 300 items and 40 queries in a file; the present folder."""
    monkeypatch.chdir(tmp_path)
    rows = {
        "id": np.arange(300),
        "price": RNG.random(300),
        "v": RNG.standard_normal((300, 4)).astype(np.float32),
    }
    with gv.connect("shop") as db:
        items = db.create_collection("items", data=rows, primary_key="id")
        items.tag("first")
    asked = {"user": [f"u{n}" for n in range(40)], "vec": list(RNG.random((40, 4), np.float32))}
    pq.write_table(pa.table(asked), "q.parquet")
    return tmp_path


BASE = "collection: ./shop/items\nqueries: q.parquet\noutput: out\n"


def described(text):
    with open("job.yaml", "w") as file:
        file.write(text)
    return "job.yaml"


def gpuvec(*words):
    result = CliRunner().invoke(app, [*map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_a_described_job_gives_the_rows_of_the_same_frame(place):
    path = described(
        BASE + "k: 3\nfilter: price < 0.5\nquery_id: user\ncolumns: [id, price]\ntag: first\n"
    )
    told = gpuvec("job", "run", path)
    assert "120 rows in" in told
    with gv.connect("shop") as db:
        frame = db["items"].at(tag="first").filter("price < 0.5")
        frame = frame.search("q.parquet", k=3, query_id="user")
        wanted = frame.select("query_id", "rank", "distance", "id", "price").collect().to_arrow()
    assert gv.frame("out/part-*.parquet").collect().to_arrow().equals(wanted)


def test_jobs_are_listed_shown_and_forgotten(place):
    gpuvec("job", "run", described(BASE + "k: 2\n"))
    (line,) = json.loads(gpuvec("job", "list", "shop", "--json"))
    assert (line["status"], line["progress"], line["parts"]) == ("done", "100%", "1/1")
    shown = gpuvec("job", "show", "shop", line["id"])
    assert "Search v k=2" in shown
    assert str(place / "out") in shown
    gpuvec("job", "forget", "shop", line["id"])
    assert gpuvec("job", "list", "shop").strip() == "no rows"
    assert (place / "out" / "part-00000.parquet").exists()
    assert not [path for path in (place / "shop").glob("job*/**/*") if path.is_file()]


def test_a_cancelled_job_is_resumed_by_command(place):
    with gv.connect("shop") as db:
        job = db["items"].search("q.parquet", k=2).submit("out", part_rows=1)
        job.cancel()
    assert "cancelled" in gpuvec("job", "cancel", "shop", job.id)
    assert "80 rows" in gpuvec("job", "resume", "shop", job.id)


WRONG = {
    "no such field": ("kk: 3", 4, "kk", 'Did you mean "k"'),
    "another type": ("k: many", 4, "k", "whole number"),
    "a whole number": ("k: true", 4, "k", "got True"),
    "twice": ("output: there", 4, "output", "line 3 too"),
    "filter": ("\nfilter: prize < 1", 5, "filter", 'no field "prize"'),
    "filter text": ("filter: price <<< 1", 4, "filter", "GV-201"),
    "tag": ("tag: never", 4, "tag", "GV-642"),
    "columns": ("columns: [id, prise]", 4, "columns", '"price"'),
    "options": ("recall: 0.9\nexact: true", 4, "recall", "GV-3"),
    "empty": ("columns: []", 4, "columns", "list of names"),
    "yaml": ("filter: [", 5, "", "no YAML"),
}


@pytest.mark.parametrize(("more", "line", "field", "says"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_told_with_field_and_line(place, more, line, field, says):
    path = described(BASE + more + "\n")
    with pytest.raises(gv.QueryError, match="GV-776") as error, gv.connect("shop") as db:
        read_job_file(path).frame(db)
    assert says in str(error.value)
    assert error.value.details["field"] == field
    assert error.value.details["line"] == line


@pytest.mark.parametrize("field", [name for name, field in FIELDS.items() if field.needed])
def test_a_missing_field_is_named(place, field):
    text = "".join(line + "\n" for line in BASE.split("\n") if line and not line.startswith(field))
    with pytest.raises(gv.QueryError, match=f"{field}: it is missing"):
        read_job_file(described(text))


def test_what_is_no_description_is_told(place):
    with pytest.raises(gv.QueryError, match="GV-776"):
        read_job_file(described("- a list"))
    with pytest.raises(gv.QueryError, match="GV-776"):
        read_job_file(described(""))
    with pytest.raises(gv.NotFoundError, match="GV-703"):
        read_job_file("nowhere.yaml")


def test_the_help_of_run_names_every_field(place):
    told = " ".join(gpuvec("job", "run", "--help").split())
    assert all(name in told for name in FIELDS)


def test_a_job_of_another_kind_cannot_be_forgotten(place):
    with gv.connect("shop") as db:
        rows = {"id": np.arange(300, 310), "price": np.ones(10), "v": RNG.random((10, 4))}
        vectors = list(rows["v"].astype(np.float32))
        pq.write_table(pa.table({**rows, "v": vectors}), "more.parquet")
        job = db["items"].bulk_import("more.parquet", wait=False)
        job.wait(60)
        with pytest.raises(gv.UnsupportedError, match="GV-779"):
            job.forget()
