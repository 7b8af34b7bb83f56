"""Pages, metrics, health and events on a real scheduler with real workers, in this process."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from distributed import Scheduler, Worker
from prometheus_client.parser import text_string_to_metric_families
from tornado.httpclient import AsyncHTTPClient

from gpuvec import telemetry
from gpuvec.cluster import dashboard, observe
from gpuvec.testing.cluster_state import sample_state

PAGES = [f"gpuvec-{spec.name}" for spec in dashboard.PAGES]

Fetch = Callable[..., Awaitable[tuple[int, str]]]


def on_scheduler(
    check: Callable[[Scheduler, Fetch], Awaitable[None]],
    state: Callable[[], dict[str, Any]] | None,
    *,
    workers: int = 0,
) -> None:
    """Run a check on a scheduler whose coordinator tells `state`; None: there is none."""

    async def run() -> None:
        observe.prepare()
        async with Scheduler(
            host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0"
        ) as scheduler:
            watch = None if state is None else observe.watch_scheduler(scheduler, state)

            async def fetch(path: str) -> tuple[int, str]:
                url = f"http://127.0.0.1:{scheduler.http_server.port}{path}"
                found = await AsyncHTTPClient().fetch(url, raise_error=False)
                return found.code, found.body.decode()

            started = [await Worker(scheduler.address, name=f"w{n}") for n in range(workers)]
            watched = [observe.watch_worker(worker) for worker in started]
            try:
                await check(scheduler, fetch)
            finally:
                for each in [*watched, *([watch] if watch else [])]:
                    each.close()
                for worker in started:
                    await worker.close()

    asyncio.run(run())


def metrics_in(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# Pages


@pytest.mark.parametrize("segments", [0, 1, 1000])
def test_every_page_answers_however_much_there_is(segments):
    async def check(_: Scheduler, fetch: Fetch) -> None:
        for page in PAGES:
            code, text = await fetch(f"/{page}")
            assert code == 200, page
            assert "root_ids" in text  # what Bokeh embeds a made document by

    on_scheduler(check, lambda: sample_state(segments))


def test_every_page_answers_while_there_is_no_coordinator_and_no_node():
    async def check(_: Scheduler, fetch: Fetch) -> None:
        assert {(await fetch(f"/{page}"))[0] for page in PAGES} == {200}

    on_scheduler(check, None)
    on_scheduler(check, lambda: sample_state(0, 0))


def test_the_bar_of_dasks_own_pages_leads_to_ours_and_ours_back():
    async def check(_: Scheduler, fetch: Fetch) -> None:
        for page in ("/status", "/workers", "/gpuvec", "/gpuvec-jobs"):
            _, text = await fetch(page)
            for name in ("gpuvec", "status", "workers", "tasks"):
                assert text.count(f'<a href="{name}">') == 1, (page, name)

    observe.prepare()  # again: nothing is doubled
    on_scheduler(check, lambda: sample_state())


def test_pages_are_offered_to_jupyterlab():
    async def check(_: Scheduler, fetch: Fetch) -> None:
        code, text = await fetch("/individual-plots.json")
        assert code == 200
        assert {f"/individual-{page}" for page in PAGES} <= set(json.loads(text).values())

    on_scheduler(check, lambda: sample_state())


# For machines


def test_ready_says_no_until_the_coordinator_does():
    states = [{}, sample_state(4, 0), sample_state(4, 2)]
    codes = []

    async def check(_: Scheduler, fetch: Fetch) -> None:
        code, text = await fetch("/gpuvec/ready")
        codes.append((code, json.loads(text)["reason"]))

    for state in states:
        on_scheduler(check, lambda state=state: state)
    assert codes == [
        (503, "the coordinator has not started"),
        (503, "no node has reported"),
        (200, ""),
    ]


def test_ready_names_generations_and_nodes():
    async def check(_: Scheduler, fetch: Fetch) -> None:
        _, text = await fetch("/gpuvec/ready")
        assert json.loads(text) == {
            "ready": True, "reason": "", "nodes": 4, "generations": {"s3://embeddings": 7},
        }  # fmt: skip

    on_scheduler(check, sample_state)


def test_health_tells_a_scheduler_without_coordinator_from_one_with():
    async def check(_: Scheduler, fetch: Fetch) -> None:
        assert (await fetch("/health"))[0] == 200  # Dask's own
        codes.append((await fetch("/gpuvec/health"))[0])

    codes: list[int] = []
    on_scheduler(check, lambda: {})
    on_scheduler(check, sample_state)
    assert codes == [503, 200]


def test_the_state_is_json_of_everything():
    async def check(_: Scheduler, fetch: Fetch) -> None:
        _, text = await fetch("/gpuvec/state")
        assert json.loads(text) == json.loads(json.dumps(sample_state(9)))

    on_scheduler(check, lambda: sample_state(9))


def test_events_are_told_newest_last():
    async def check(_: Scheduler, fetch: Fetch) -> None:
        for number in range(3):
            telemetry.note("node_joined", number=number)
        _, text = await fetch("/gpuvec/events?limit=2")
        assert [event["details"]["number"] for event in json.loads(text)] == [1, 2]
        assert (await fetch("/gpuvec/events?limit=many"))[0] == 400

    on_scheduler(check, sample_state)


# Metrics


def test_a_scrape_of_the_scheduler_reads_nodes_and_collections():
    async def check(_: Scheduler, fetch: Fetch) -> None:
        code, text = await fetch("/metrics")
        assert code == 200
        found = metrics_in(text)
        assert found["gpuvec_node_up", (("node", "worker-0"),)] == 1
        assert found["gpuvec_node_up", (("node", "worker-3"),)] == 0  # it leaves
        limit = (("node", "worker-0"), ("of", "limit"))
        assert found["gpuvec_node_memory_bytes", limit] == 512 << 20
        database = (("database", "s3://embeddings"),)
        assert found["gpuvec_segments_missing_replicas", database] == 5
        assert found["gpuvec_generation", database] == 7
        assert found["gpuvec_jobs", (("status", "running"),)] == 1
        assert any(name.startswith("dask_scheduler_") for name, _ in found)

    on_scheduler(check, lambda: sample_state(20, lacking=5))


def test_a_scrape_after_the_coordinator_ended_shows_none_of_it():
    ended = sample_state(20)["nodes"]

    async def check(_: Scheduler, fetch: Fetch) -> None:
        page = (await fetch("/metrics"))[1]
        up = [line for line in page.splitlines() if line.startswith("gpuvec_node_up")]
        assert not [line for line in up for node in ended if f'"{node}"' in line]

    on_scheduler(check, None)


def test_what_workers_send_is_shown_under_their_names_and_once_for_each_process():
    from gpuvec.cluster.metrics import heartbeat, worker_readings

    telemetry.HEDGES.add()
    here = heartbeat()
    there = {**here, "process": "another"}
    found = list(worker_readings({"w0": here, "w1": there, "w2": there, "w3": {}}))
    assert {labels["worker"] for labels, _ in found} == {"w1"}
    assert any(reading.name == "gpuvec_hedges_total" for _, reading in found)


def test_readings_reach_the_scheduler_with_the_heartbeat_of_a_worker():
    async def check(scheduler: Scheduler, fetch: Fetch) -> None:
        telemetry.WRITES.add(1, "ok")
        [worker] = scheduler.workers.values()
        for _ in range(100):
            if "gpuvec" in worker.metrics:
                break
            await asyncio.sleep(0.1)
        names = {values[0] for values in worker.metrics["gpuvec"]["readings"]}
        assert "gpuvec_writes_total" in names
        found = metrics_in((await fetch("/metrics"))[1])  # of this process: without a worker's name
        assert found["gpuvec_writes_total", (("outcome", "ok"),)] >= 1
        assert (await fetch("/gpuvec-device-memory"))[0] == 200
        assert (await fetch("/workers"))[0] == 200

    on_scheduler(check, sample_state, workers=1)


# Events


def test_events_reach_dasks_topic_once():
    async def check(scheduler: Scheduler, _: Fetch) -> None:
        telemetry.note("flush", collection="01A", rows=12)
        for _ in range(100):
            if scheduler.get_events("gpuvec"):
                break
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.05)
        [(_, message)] = scheduler.get_events("gpuvec")
        assert message["event"]["details"] == {"collection": "01A", "rows": 12}

    on_scheduler(check, sample_state, workers=1)


def test_events_of_other_processes_are_kept_beside_our_own():
    async def check(scheduler: Scheduler, _: Fetch) -> None:
        event = {
            "time_ms": 1,
            "kind": "flush",
            "database": "",
            "node": "w9",
            "details": {"rows": 1},
        }
        scheduler.log_event("gpuvec", {"process": "another", "event": event})
        scheduler.log_event("others", {"process": "another", "event": event})
        [found] = [event for event in telemetry.EVENTS.newest() if event.node == "w9"]
        assert found.details == {"rows": 1}

    on_scheduler(check, sample_state)
