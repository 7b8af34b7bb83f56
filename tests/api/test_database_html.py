"""What a notebook shows of a database."""

import pytest

import gpuvec as gv
from gpuvec.api.display import SHOWN_ROWS


@pytest.fixture
def db(tmp_path):
    with gv.connect(tmp_path / "db") as db:
        yield db


def rows(count):
    return [{"id": n, "text": "a"} for n in range(count)]


@pytest.mark.one_process
def test_a_notebook_shows_collections_with_rows_and_size(db):
    items = db.create_collection("items", data=rows(1200), primary_key="id")
    items.flush()
    shown = db._repr_html_()
    assert "1 collection<" in shown.replace("\n", "<")
    assert '<td style="text-align:left">items</td>' in shown
    assert "1,200" in shown


def test_an_empty_database_shows_where_it_lies(db):
    assert "0 collections" in db._repr_html_()
    assert db.path in db._repr_html_()


def test_of_many_collections_the_first_are_shown(db):
    for number in range(SHOWN_ROWS + 3):
        db.create_collection(f"c{number:02}", data=rows(1), primary_key="id")
    shown = db._repr_html_()
    assert "3 more" in shown
    assert f"c{SHOWN_ROWS - 1:02}" in shown
    assert f"c{SHOWN_ROWS:02}" not in shown


def test_names_cannot_smuggle_html_in(db):
    db.create_collection("<b>x", data=rows(1), primary_key="id")
    assert "<b>x" not in db._repr_html_()


def test_a_closed_database_says_so(db):
    db.close()
    assert "closed" in db._repr_html_()


@pytest.mark.one_process
def test_without_a_cluster_there_is_no_dashboard(db):
    assert db.dashboard is None
