"""What `cluster.internals` takes for granted of distributed: each fact, on the real thing."""

import asyncio
import contextlib
import logging
import os
import pickle
import select
import socket
import subprocess
import sys
import time
from typing import ClassVar

import numpy as np
import pytest
from distributed import Client, Nanny, Scheduler, Worker
from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin, WorkerPlugin

from gpuvec.cluster import internals
from gpuvec.cluster.grace_worker import GraceWorker

QUIET = {"dashboard_address": ":0", "dashboard": False}


def run(work, *, workers=1, worker_class=Worker, protocol="tcp://"):
    """Run a coroutine function with a scheduler and some workers of its own."""

    async def main():
        async with Scheduler(port=0, protocol=protocol, host=_host(protocol), **QUIET) as scheduler:
            started = [
                await worker_class(
                    scheduler.address, name=f"w{i}", nthreads=1, host=_host(protocol)
                )
                for i in range(workers)
            ]
            try:
                return await work(scheduler, *started)
            finally:
                await asyncio.gather(*(worker.close(nanny=False) for worker in started))

    return asyncio.run(main())


def _host(protocol):
    return None if protocol == "inproc://" else "127.0.0.1"


async def call(address, op, **message):
    comm = await internals.open_connection(address, {}, connect_s=1, timeout_s=5)
    try:
        return await internals.exchange(comm, op, message)
    finally:
        await comm.close()


def test_handlers_of_both_kinds_of_servers_answer_and_buffers_arrive_unpacked():
    array = np.arange(50_000, dtype=np.float32)

    async def answer(**message):
        return {"frames": internals.beside_message([memoryview(f) for f in message["frames"]])}

    async def work(scheduler, worker):
        for server in (scheduler, worker):
            internals.install_handler(server, "echo", answer)
            frames = internals.beside_message([memoryview(array).cast("B")])
            back = await call(server.address, "echo", frames=frames)
            np.testing.assert_array_equal(np.frombuffer(back["frames"][0], np.float32), array)

    run(work)


def test_a_server_answers_none_to_what_it_does_not_know(caplog):
    async def work(scheduler, worker):
        return [await call(server.address, "no-such-op") for server in (scheduler, worker)]

    with caplog.at_level(logging.CRITICAL):
        assert run(work) == [None, None]


def test_a_cancelled_call_closes_its_connection():
    async def answer(**_):
        await asyncio.sleep(60)
        return {}

    async def work(scheduler, worker):
        internals.install_handler(worker, "slow", answer)
        comm = await internals.open_connection(worker.address, {}, connect_s=1, timeout_s=5)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await internals.exchange(comm, "slow", {})
        return comm.closed()

    assert run(work)


def open_sockets():
    """Return the sockets of this process, dangling ones too."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return {name for name in found if name.startswith("socket:")}


def test_an_attempt_that_is_given_up_at_any_step_leaves_no_socket_open():
    """Cancelled while it connects, in the moment it is ready, and in the handshake."""

    async def attempts(address):
        before = open_sockets()
        for steps in range(400):
            attempt = asyncio.create_task(
                internals.open_connection(address, {}, connect_s=5, timeout_s=5)
            )
            for _ in range(steps):
                await asyncio.sleep(0)
            attempt.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                (await attempt).abort()
            assert open_sockets() == before, steps

    with socket.create_server(("127.0.0.1", 0), backlog=500) as silent:
        asyncio.run(attempts(f"tcp://127.0.0.1:{silent.getsockname()[1]}"))


@pytest.mark.parametrize("limits", [(0.05, 5), (5, 0.05)], ids=["connect", "handshake"])
def test_an_attempt_ends_in_time_at_a_process_that_hangs(limits):
    async def attempt(address):
        before = open_sockets()
        with pytest.raises(TimeoutError):
            await internals.open_connection(address, {}, connect_s=limits[0], timeout_s=limits[1])
        assert open_sockets() == before

    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)  # room for one connection, which is never accepted
        address = f"127.0.0.1:{full.getsockname()[1]}"
        with contextlib.ExitStack() as held:
            while limits[0] < limits[1]:
                taken = held.enter_context(socket.socket())
                taken.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    taken.connect(full.getsockname())
                if not select.select([], [taken], [], 0.1)[1]:
                    break
            asyncio.run(attempt(f"tcp://{address}"))


def test_a_refused_connection_fails_at_once_and_leaves_no_socket():
    async def attempt(address):
        before = open_sockets()
        with pytest.raises(OSError, match="refused"):
            await internals.open_connection(address, {}, connect_s=5, timeout_s=5)
        return open_sockets() - before

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        assert asyncio.run(attempt(f"tcp://127.0.0.1:{held.getsockname()[1]}")) == set()


def test_a_worker_tells_who_it_is_and_what_it_has():
    async def work(scheduler, worker):
        state = scheduler.workers[worker.address]
        assert state.server_id == internals.incarnation_of(worker)
        assert internals.threads_of(worker) == 1
        assert internals.memory_limit_of(worker) > 1 << 20
        assert not internals.is_closing(worker)
        await worker.close()
        assert internals.is_closing(worker)

    run(work)


class Named(WorkerPlugin):
    """Leaves its name in the worker."""

    def setup(self, worker):
        worker.extensions["named"] = self


def test_workers_that_come_later_have_the_plugin_before_they_are_counted():
    seen = []

    class Looks(SchedulerPlugin):
        def add_worker(self, scheduler, worker):
            seen.append(worker)

    async def work(scheduler):
        await internals.register_on_workers(scheduler, Named(), "named")
        scheduler.add_plugin(Looks())
        worker = await Worker(scheduler.address, nthreads=1, host="127.0.0.1")
        assert isinstance(worker.extensions["named"], Named)
        assert seen == [worker.address]
        await worker.close()

    run(work, workers=0)


@pytest.mark.parametrize("how", ["names", "addresses", "any"])
def test_retirement_waits_for_the_drain(how):
    drained = []

    async def drain(addresses):
        drained.extend(addresses)

    async def work(scheduler, one, two):
        internals.wrap_retirement(scheduler, drain)
        options = {"names": ["w0"]} if how == "names" else {"workers": [one.address]}
        if how == "any":
            options = {"n": 1}
        found = await call(scheduler.address, "retire_workers", close_workers=False, **options)
        assert set(found) == set(drained)
        return len(drained)

    assert run(work, workers=2) == 1


def test_names_and_addresses_at_once_are_refused():
    async def work(scheduler, worker):
        internals.wrap_retirement(scheduler, lambda _: asyncio.sleep(0))
        with pytest.raises(TypeError):
            await scheduler.retire_workers([worker.address], names=["w0"])

    run(work)


def test_adaptive_scaling_wants_the_larger_of_both_numbers():
    async def work(scheduler, worker):
        internals.wrap_target(scheduler, lambda: 7)
        return await call(scheduler.address, "adaptive_target", target_duration=None)

    assert run(work) == 7


def test_a_push_is_kept_where_clients_get_it():
    async def work(scheduler, worker):
        internals.push(scheduler, "topic", {"delta": b"x"})
        await asyncio.sleep(0.05)
        (event,) = scheduler.get_events("topic")
        return event[1]

    assert run(work) == {"delta": b"x"}


def test_heartbeats_end_and_a_scheduler_is_found_again():
    async def work(scheduler, worker):
        internals.stop_heartbeats(worker)
        assert not worker.periodic_callbacks["heartbeat"].is_running()
        assert not worker.periodic_callbacks["keep-alive"].is_running()
        assert await internals.can_connect(worker)

    run(work)


class Counting(WorkerPlugin):
    """Counts how often it is started and ended."""

    name = "counting"
    calls: ClassVar[list[str]] = []

    def setup(self, worker):
        self.calls.append("setup")

    def teardown(self, worker):
        self.calls.append("teardown")


async def answer_alive(**_):
    return {"alive": True}


async def lose(scheduler, worker):
    """Let a scheduler listen no more, and tell nobody."""
    scheduler.stop()
    scheduler.stream_comms[worker.address].abort()
    await asyncio.sleep(1)
    assert worker.status == Status.running
    assert await call(worker.address, "alive") == {"alive": True}


def test_a_grace_worker_outlives_its_scheduler_and_joins_the_next_one_as_it_is():
    async def work(scheduler, worker):
        internals.install_handler(worker, "alive", answer_alive)
        await internals.register_on_workers(scheduler, Counting(), "counting")
        async with Client(scheduler.address, asynchronous=True) as client:
            kept = client.submit(sum, [1, 2], key="kept")
            assert await kept == 3
            await lose(scheduler, worker)
            assert worker.data
        async with Scheduler(port=scheduler.port, host="127.0.0.1", **QUIET) as later:
            await internals.register_on_workers(later, Counting(), "counting")
            while worker.address not in later.workers:
                await asyncio.sleep(0.05)
            assert await call(worker.address, "alive") == {"alive": True}
            assert later.workers[worker.address].server_id == worker.id
            assert not worker.data
            async with Client(later.address, asynchronous=True) as client:
                assert await client.submit(sum, [1, 2], key="kept") == 3

    Counting.calls.clear()
    run(work, worker_class=GraceWorker)
    assert Counting.calls == ["setup", "teardown"]


def test_a_grace_worker_whose_tasks_do_not_end_starts_anew(monkeypatch):
    monkeypatch.setattr("gpuvec.cluster.grace_worker._TASKS_S", 0.2)
    monkeypatch.setattr("gpuvec.cluster.grace_worker._SPREAD_S", 0.0)

    async def work(scheduler, worker):
        internals.install_handler(worker, "alive", answer_alive)
        async with Client(scheduler.address, asynchronous=True) as client:
            client.submit(time.sleep, 3)
            while not worker.state.executing:
                await asyncio.sleep(0.01)
            await lose(scheduler, worker)
        async with Scheduler(port=scheduler.port, host="127.0.0.1", **QUIET):
            await asyncio.wait_for(worker.finished(), 20)
        return worker.status

    assert run(work, worker_class=GraceWorker) == Status.closed


def test_a_grace_worker_ends_when_its_scheduler_says_so():
    async def work(scheduler, worker):
        await scheduler.close()
        await asyncio.wait_for(worker.finished(), 10)
        return worker.status

    assert run(work, worker_class=GraceWorker) == Status.closed


def test_a_nanny_takes_the_class_of_its_worker_as_an_option():
    async def work(scheduler):
        nanny = Nanny(scheduler.address, worker_class=GraceWorker, host="127.0.0.1")
        assert nanny.Worker is GraceWorker

    run(work, workers=0)


def test_what_is_pickled_for_workers_is_small():
    from gpuvec.cluster.segment_host import SegmentHost

    assert len(pickle.dumps(SegmentHost())) < 200


def test_what_ends_before_pools_may_still_use_them():
    script = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from gpuvec.cluster import internals\n"
        "pool = ThreadPoolExecutor(1)\n"
        "pool.submit(int).result()\n"
        "internals.before_pools_end(lambda: print(pool.submit(int, '7').result()))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("7\n", "")


def test_what_is_done_before_pools_end_is_not_done_by_a_forked_child():
    script = (
        "import multiprocessing\n"
        "from gpuvec.cluster import internals\n"
        "internals.before_pools_end(lambda: print('done', flush=True))\n"
        "child = multiprocessing.get_context('fork').Process(target=int)\n"
        "child.start()\n"
        "child.join()\n"
        "print('child', child.exitcode, flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("child 0\ndone\n", "")
