"""What a running cluster of processes tells of itself."""

import json
import time
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urljoin

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import gpuvec as gv

ROWS = 500


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def eventually(look: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """Return what a look finds, once that is something: heartbeats take their time."""
    end = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < end, "not within the time"
        time.sleep(0.2)
    return found


@pytest.fixture
def items(db):
    rng = np.random.default_rng(1)
    rows = {"id": np.arange(ROWS), "v": rng.normal(size=(ROWS, 8)).astype("float32")}
    items = db.create_collection("items", data=rows, primary_key="id")
    items.flush()
    return items


def test_the_dashboard_is_where_the_database_says(db):
    assert "root_ids" in fetch(db.dashboard)


def test_a_cluster_with_workers_is_healthy_and_ready(db, items):
    assert json.loads(fetch(urljoin(db.dashboard, "gpuvec/health"))) == {"coordinator": True}
    ready = json.loads(fetch(urljoin(db.dashboard, "gpuvec/ready")))
    assert ready["ready"]
    assert ready["nodes"] == 4
    assert all(generation > 0 for generation in ready["generations"].values())


def test_the_state_tells_of_a_collection_who_writes_it_and_what_it_holds(db, items):
    def look() -> Any:
        state = json.loads(fetch(urljoin(db.dashboard, "gpuvec/state")))
        for database in state["databases"].values():
            for collection_id, about in database["collections"].items():
                rows = sum(s[2] for s in database["segments"] if s[0] == collection_id)
                if database["url"] == db.path and about["name"] == "items" and rows == ROWS:
                    return about["owner"], list(state["nodes"])
        return None

    owner, nodes = eventually(look)
    assert owner in nodes


def test_a_scrape_of_the_scheduler_reads_what_workers_count(db, items):
    items.search(np.ones((3, 8), "float32"), k=5).collect()

    def look() -> Any:
        found: dict[str, dict[str, float]] = {}
        for family in text_string_to_metric_families(fetch(urljoin(db.dashboard, "metrics"))):
            for sample in family.samples:
                if "worker" in sample.labels:
                    found.setdefault(sample.name, {})[sample.labels["worker"]] = sample.value
        wanted = ("gpuvec_wal_appends_total", "gpuvec_parts_total", "gpuvec_flush_seconds_count")
        return found if all(sum(found.get(name, {}).values()) for name in wanted) else None

    found = eventually(look)
    assert sum(found["gpuvec_flush_seconds_count"].values()) >= 1


def test_events_of_all_nodes_come_to_the_client_with_names(db, items):
    def look() -> Any:
        return [event for event in db.events() if event.kind == "flush"]

    [event] = eventually(look)
    assert event.details["collection"] == "items"
    assert event.details["rows"] == ROWS
    assert event.node in db._engine.node_names()


def test_a_new_owner_is_an_event(db, items):
    assert "owner_changed" in {event.kind for event in eventually(db.events)}


def test_a_notebook_shows_nodes_and_the_way_to_the_dashboard(db, items):
    shown = db._repr_html_()
    assert "on 4 nodes" in shown
    assert f'<a href="{db.dashboard}"' in shown


def test_a_database_without_cluster_has_no_dashboard(tmp_path):
    with gv.connect(tmp_path / "here") as db:
        assert db.dashboard is None
