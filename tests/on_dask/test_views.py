"""What pages show, without a browser: lines of tables, charts, and how they follow changes."""

import pytest

from gpuvec.cluster import view
from gpuvec.cluster.charts import MOST_BARS
from gpuvec.cluster.dashboard import PAGES, PageContent
from gpuvec.testing.cluster_state import MIB, sample_state

SPECS = {spec.name: spec for spec in PAGES}


class Scheduler:
    """Stands for a Dask scheduler where only its coordinator's state matters."""

    workers: dict = {}  # noqa: RUF012 - there are none


@pytest.fixture
def scheduler(monkeypatch):
    monkeypatch.setattr(view, "FRESH_S", -1.0)
    monkeypatch.setattr(view, "_now_ms", lambda: 1_700_000_005_000)
    made = Scheduler()
    view.tell_state(made, sample_state)
    return made


def test_collections_add_their_segments_up(scheduler):
    state = sample_state(40, lacking=4)
    lines = {line["collection"]: line for line in view.collection_lines(state)}
    assert sum(line["segments"] for line in lines.values()) == 40
    assert sum(line["missing"] for line in lines.values()) == 4
    assert sum(line["bytes"] for line in lines.values()) == sum(
        segment[3] for segment in state["databases"]["s3://embeddings"]["segments"]
    )
    assert lines["papers"]["age_s"] == 17.0
    assert lines["papers"]["indexes"] == "embedding: IVFInt8(lists=1024) 0.961"
    assert lines["drafts"]["owner"] == "nobody yet"


def test_segments_that_lack_replicas_come_first():
    lines = view.segment_lines(sample_state(40, lacking=4))
    assert [line["replicas"] for line in lines[:5]] == ["1 of 2"] * 4 + ["2 of 2"]


def test_nodes_show_what_they_hold():
    lines = {line["node"]: line for line in view.node_lines(sample_state(40))}
    assert sum(line["segments"] for line in lines.values()) == 80
    assert lines["worker-0"]["owned"] == 1
    assert lines["worker-3"]["status"] == "leaving"


def test_running_jobs_come_first():
    lines = view.job_lines(sample_state())
    assert [line["status"] for line in lines] == ["running", "done"]
    assert lines[0]["parts"] == "4 of 10"


def test_the_lowest_recall_comes_first_and_what_is_not_measured_last():
    lines = view.recall_lines(sample_state())
    assert [line["index"] for line in lines] == [
        "papers.embedding", "authors.embedding", "authors.title",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({}, "gpuvec has not started yet"),
        (sample_state(0, 0), "gpuvec is not ready: no node has reported"),
        (
            sample_state(1, 1),
            "1 node · 1 open database · 3 collections · 1 segment · "
            "1 with fewer replicas than wanted",
        ),
        (sample_state(1000), "4 nodes · 1 open database · 3 collections · 1,000 segments"),
    ],
)
def test_the_cluster_fits_in_a_line(state, text):
    assert view.summary(state) == text


def test_a_state_that_lacks_everything_shows_nothing_and_fails_nowhere():
    for state in (
        {},
        {"nodes": None},
        {"databases": {"x": {}}},
        {"databases": {"x": {"jobs": None}}},
    ):
        for read in (
            view.collection_lines, view.segment_lines, view.node_lines, view.job_lines,
            view.recall_lines, view.held_bytes, view.missing_replicas, view.summary,
        ):  # fmt: skip
            assert read(state) is not None


def test_one_state_serves_all_pages_for_a_while(monkeypatch):
    monkeypatch.setattr(view, "FRESH_S", 60.0)
    asked = []
    made = Scheduler()
    view.tell_state(made, lambda: asked.append(1) or {})
    for _ in range(5):
        view.state_of(made)
    assert len(asked) == 1


@pytest.mark.parametrize("name", SPECS)
def test_a_page_shows_its_lines(scheduler, name):
    content = PageContent(scheduler, SPECS[name])
    content.update()
    data = content._source.data
    lines = SPECS[name].lines(scheduler)
    for column in SPECS[name].columns:
        assert list(data[column.key]) == [line[column.key] for line in lines]


@pytest.mark.parametrize("name", SPECS)
def test_a_page_sends_nothing_while_nothing_changes(scheduler, name):
    from bokeh.document import Document

    content = PageContent(scheduler, SPECS[name])
    content.update()
    document, sent = Document(), []
    document.add_root(content.root)
    document.on_change(sent.append)
    content.update()
    assert sent == []
    view.tell_state(scheduler, lambda: sample_state(41, 5))
    content.update()
    assert sent or name in ("jobs", "device-memory", "recall")


def test_a_long_table_is_cut_and_says_so(scheduler):
    view.tell_state(scheduler, lambda: sample_state(3000))
    content = PageContent(scheduler, SPECS["segments"])
    content.update()
    assert len(content._source.data["segment"]) == view.MOST_LINES
    assert "The first 2,000 of 3,000 are shown." in content._heading.text


def test_a_chart_of_many_shows_the_first_and_says_so(scheduler):
    view.tell_state(scheduler, lambda: sample_state(100, 60))
    content = PageContent(scheduler, SPECS["nodes"])
    content.update()
    assert len(content._chart._range.factors) == MOST_BARS
    assert content._chart.root.title.text.endswith(f"(the first {MOST_BARS} of 60)")


def test_bars_stand_in_the_order_of_the_table(scheduler):
    content = PageContent(scheduler, SPECS["collections"])
    content.update()
    names = list(content._source.data["collection"])
    assert content._chart._range.factors == names[::-1]  # Bokeh counts from below


def test_nodes_are_drawn_against_their_limit(scheduler):
    content = PageContent(scheduler, SPECS["nodes"])
    content.update()
    assert set(content._chart._source.data["of"]) == {512 * MIB}


def test_an_empty_page_says_why(scheduler):
    view.tell_state(scheduler, lambda: sample_state(0))
    content = PageContent(scheduler, SPECS["segments"])
    content.update()
    assert "No segment is in files yet" in content._heading.text
    assert not content._table.visible
