"""What roles count, and one trace of what they do for one call."""

import numpy as np
import pytest

import gpuvec as gv
from gpuvec import telemetry
from gpuvec.testing.spans import collected_spans

VECTORS = np.random.default_rng(1).normal(size=(200, 4)).astype("float32")


@pytest.fixture
def filled(items):
    items.insert({"id": np.arange(200), "v": VECTORS})
    items.flush()
    items.insert({"id": np.arange(200, 210), "v": VECTORS[:10]})
    return items


@pytest.fixture
def spans():
    with collected_spans() as found:
        yield found


def test_a_search_is_one_trace_from_client_to_nodes(filled, spans):
    filled.search(VECTORS[:3], k=4).collect()
    found = spans()
    query = found["gpuvec.query"]
    assert query.parent is None
    for name in ("plan", "scatter", "part"):
        assert found[f"gpuvec.{name}"].context.trace_id == query.context.trace_id, name
    assert found["gpuvec.part"].parent.span_id != query.context.span_id  # below its scatter
    assert found["gpuvec.part"].attributes["gpuvec.collection"]


def test_nodes_count_parts_and_clients_queries(filled):
    parts, vectors = telemetry.PARTS.value("ok"), telemetry.QUERY_VECTORS.value()
    searches = telemetry.QUERIES.value("search", "ok")
    filled.search(VECTORS[:3], k=4).collect()
    assert telemetry.PARTS.value("ok") > parts  # one node may answer for all
    assert telemetry.QUERIES.value("search", "ok") == searches + 1
    assert telemetry.QUERY_VECTORS.value() == vectors + 3


def test_the_recall_of_a_search_is_told_by_the_name_of_its_collection(filled):
    filled.search(VECTORS[:3], k=4).collect()
    found = {
        r.labels: r.value for r in telemetry.METERS.read() if r.name == "gpuvec_recall_estimate"
    }
    assert found[("items",)] == 1.0


def test_only_the_owner_tells_what_lies_in_the_log(filled):
    found = [r for r in telemetry.METERS.read() if r.name == "gpuvec_growing_bytes"]
    assert [r.labels for r in found] == [("items",)]
    assert found[0].value > 10 * 4 * 4


def test_events_of_the_owner_reach_clients_under_present_names(filled, db):
    flushes = [event for event in db.events() if event.kind == "flush"]
    assert [event.details["collection"] for event in flushes] == ["items"]
    with pytest.raises(gv.QueryError, match="GV-354"):
        db.events(-1)


def test_a_client_knows_the_nodes_before_it_reads(db):
    assert len(db._engine.node_names()) == 2
    assert "on 2 nodes" in db._repr_html_()
    assert db.dashboard is None
