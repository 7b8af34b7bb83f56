"""Calls between processes, over real Dask servers and sockets."""

import socket
import threading
import time

import numpy as np
import pyarrow as pa
import pytest

from gpuvec import errors
from gpuvec.cluster.service import Lane
from gpuvec.cluster.transport import DaskTransport
from gpuvec.cluster_messages import COORDINATOR, CloseDatabase, GetRoutes
from gpuvec.data_messages import Busy, ReadPart
from gpuvec.testing.dask_hosts import host
from gpuvec.types import NodeId

NODE = NodeId("node-1")


@pytest.fixture(params=[True, False], ids=["worker", "scheduler"])
def there(request):
    """A host whose server unpacks messages as workers do, or does not, as schedulers do."""
    with host(NODE, deserialize=request.param) as made:
        yield made


@pytest.fixture
def calls(there):
    made = DaskTransport(there.address)
    made.learn(NODE, there.address)
    yield made
    made.close()


def ask(question, **fields):
    fields = {"entry_id": 1, "version": 1, "segments": (), "growing": False, **fields}
    return ReadPart(identity="x", collection_id="c", question=question, **fields)


@pytest.mark.parametrize("rows", [0, 1, 100, 70_000])
def test_arrays_and_tables_of_any_size_come_back_as_they_were(there, calls, rows):
    there.service.serve({ReadPart: lambda message, _: message.question})
    array = np.random.default_rng(1).random((rows, 3), np.float32)
    table = pa.table({"id": np.arange(rows), "text": [f"row {i}" for i in range(rows)]})
    back_array, back_table = calls.call(NODE, ask((array, table)), deadline_s=5)
    np.testing.assert_array_equal(back_array, array)
    assert back_array.flags.aligned
    assert back_table.equals(table)


def test_a_long_text_travels_too(there, calls):
    there.service.serve({ReadPart: lambda message, _: message.question[::-1]})
    text = "ab" * 100_000
    assert calls.call(NODE, ask(text), deadline_s=5) == text[::-1]


def test_errors_arrive_with_code_hint_and_details(there, calls):
    def fail(message, _):
        raise errors.wrong_dimension("v", wanted=3, got=message.question)

    there.service.serve({ReadPart: fail})
    with pytest.raises(errors.SchemaError) as caught:
        calls.call(NODE, ask(4), deadline_s=5)
    assert caught.value.code == "GV-113"
    assert caught.value.hint
    assert caught.value.details["wanted"] == 3


def test_an_error_arrives_as_it_is_whatever_led_to_it(there, calls):
    import dask.multiprocessing  # lets pickles of errors take along what led to them

    assert dask.multiprocessing

    def fail(*_):
        raise errors.wrong_dimension("v", wanted=3, got=4) from KeyError(threading.Lock())

    there.service.serve({ReadPart: fail})
    with pytest.raises(errors.SchemaError, match="GV-113"):
        calls.call(NODE, ask(4), deadline_s=5)


def test_an_error_that_does_not_pickle_is_told_by_its_text(there, calls, caplog):
    class OddError(Exception):
        pass

    def fail(*_):
        raise OddError("cannot travel")

    there.service.serve({GetRoutes: fail})
    with pytest.raises(RuntimeError, match="OddError: cannot travel"):
        calls.call(NODE, GetRoutes(identity="x"), deadline_s=5)
    assert "GetRoutes failed at node-1" in caplog.text


def test_a_call_ends_at_its_deadline_and_the_next_one_works(there, calls):
    go_on = threading.Event()
    there.service.serve({GetRoutes: lambda *_: go_on.wait(5), CloseDatabase: lambda *_: "here"})
    started = time.monotonic()
    with pytest.raises(errors.DeadlineError, match="GV-611"):
        calls.call(NODE, GetRoutes(identity="x"), deadline_s=0.2)
    assert time.monotonic() - started < 2
    go_on.set()
    assert calls.call(NODE, CloseDatabase(identity="x"), deadline_s=5) == "here"


def test_a_call_whose_deadline_passed_while_it_waited_is_not_begun():
    with host(NODE, threads={Lane.WORK: 1}) as there:
        calls = DaskTransport(there.address)
        calls.learn(NODE, there.address)
        begun, go_on = [], threading.Event()

        def work(message, _):
            begun.append(message.identity)
            go_on.wait(5)

        there.service.serve({GetRoutes: work}, lane=Lane.WORK)
        first = calls.submit(NODE, GetRoutes(identity="first"), deadline_s=5)
        late = calls.submit(NODE, GetRoutes(identity="late"), deadline_s=0.2)
        with pytest.raises(errors.DeadlineError):
            late.result()
        time.sleep(0.5)  # the host counts from when the call reached it
        go_on.set()
        first.result()
        calls.call(NODE, GetRoutes(identity="next"), deadline_s=5)
        calls.close()
    assert begun == ["first", "next"]


def test_work_of_one_lane_does_not_hold_up_another():
    with host(NODE, threads={Lane.WORK: 1}) as there:
        calls = DaskTransport(there.address)
        calls.learn(NODE, there.address)
        go_on = threading.Event()
        there.service.serve({GetRoutes: lambda *_: go_on.wait(5)}, lane=Lane.WORK)
        there.service.serve({CloseDatabase: lambda *_: "quick"})
        slow = [calls.submit(NODE, GetRoutes(identity="x"), deadline_s=5) for _ in range(3)]
        assert calls.call(NODE, CloseDatabase(identity="x"), deadline_s=2) == "quick"
        assert there.service.waiting(Lane.WORK) == 3
        go_on.set()
        assert all(call.result() for call in slow)
        calls.close()


def test_too_many_waiting_calls_are_refused_at_once():
    with host(NODE, threads={Lane.WORK: 1}) as there:
        calls = DaskTransport(there.address)
        calls.learn(NODE, there.address)
        go_on = threading.Event()
        there.service.serve({GetRoutes: lambda *_: go_on.wait(5)}, lane=Lane.WORK)
        there.service.limit = 3
        sent = [calls.submit(NODE, GetRoutes(identity="x"), deadline_s=20) for _ in range(3)]
        while there.service.waiting(Lane.WORK) < len(sent):
            time.sleep(0.01)
        with pytest.raises(errors.QuotaError, match="GV-753"):
            calls.call(NODE, GetRoutes(identity="x"), deadline_s=5)
        go_on.set()
        assert all(call.result() for call in sent)
        calls.close()


def test_nobody_at_an_address_is_unavailable_soon(calls):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, and nobody listens
        calls.learn(NodeId("dead"), f"tcp://127.0.0.1:{held.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(errors.UnavailableError, match="GV-610") as caught:
            calls.call(NodeId("dead"), GetRoutes(identity="x"), deadline_s=30)
    assert time.monotonic() - started < 2
    assert caught.value.details["outcome"] == "none"


def test_a_process_that_accepts_and_says_nothing_is_unavailable(calls):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        calls.learn(NodeId("hung"), f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(errors.UnavailableError, match="GV-610"):
            calls.call(NodeId("hung"), GetRoutes(identity="x"), deadline_s=0.5)


def test_an_unknown_node_is_unavailable(calls):
    with pytest.raises(errors.UnavailableError, match="GV-610"):
        calls.call(NodeId("nobody"), GetRoutes(identity="x"), deadline_s=1)


def test_an_address_that_went_to_another_node_is_not_mistaken_for_it(there, calls):
    there.service.serve({GetRoutes: lambda *_: "wrong one"})
    calls.learn(NodeId("gone"), there.address)
    with pytest.raises(errors.UnavailableError, match='"gone"'):
        calls.call(NodeId("gone"), GetRoutes(identity="x"), deadline_s=1)


def test_a_host_that_ends_is_a_node_that_is_not_there(there, calls):
    there.service.serve({ReadPart: lambda message, _: message.question})
    there.service.close()
    with pytest.raises(errors.UnavailableError, match="GV-610") as raised:
        calls.call(NODE, ask(1), deadline_s=5)
    assert raised.value.details["outcome"] == "none"


def test_a_message_without_a_function_says_that_versions_differ(there, calls):
    with pytest.raises(errors.UnsupportedError, match=r"GV-752.*does not answer GetRoutes"):
        calls.call(NODE, GetRoutes(identity="x"), deadline_s=1)


def test_a_server_without_gpuvec_is_unavailable_for_now(there, calls):
    there.server.handlers.clear()
    with pytest.raises(errors.UnavailableError, match="GV-750") as caught:
        calls.call(NODE, GetRoutes(identity="x"), deadline_s=1)
    assert caught.value.details["retryable"]


def test_a_host_that_dies_while_it_works_leaves_the_outcome_unknown(there, calls):
    begun, go_on = threading.Event(), threading.Event()

    def work(*_):
        begun.set()
        go_on.wait(5)

    there.service.serve({GetRoutes: work})
    call = calls.submit(NODE, GetRoutes(identity="x"), deadline_s=10)
    begun.wait(5)
    there.server.stop()
    there.loop.call_soon_threadsafe(lambda: [comm.abort() for comm in list(there.server._comms)])
    with pytest.raises(errors.UnavailableError, match="GV-751") as caught:
        call.result(5)
    go_on.set()
    assert caught.value.details["outcome"] == "unknown"


def test_closing_ends_calls_under_way_and_refuses_others(there, calls):
    go_on = threading.Event()
    there.service.serve({GetRoutes: lambda *_: go_on.wait(5)})
    call = calls.submit(NODE, GetRoutes(identity="x"), deadline_s=10)
    while not there.service.waiting(Lane.CONTROL):
        time.sleep(0.01)
    calls.close()
    go_on.set()
    with pytest.raises(errors.UnavailableError):
        call.result(5)
    with pytest.raises(errors.UnavailableError):
        calls.call(NODE, GetRoutes(identity="x"), deadline_s=1)
    calls.close()


def test_many_threads_share_the_transport(there, calls):
    there.service.serve({ReadPart: lambda message, _: message.question})
    answers = {}

    def some(start):
        for i in range(start, start + 50):
            answers[i] = calls.call(NODE, ask(i), deadline_s=10)

    threads = [threading.Thread(target=some, args=(50 * i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {i: i for i in range(400)}


def test_the_coordinator_is_reached_at_the_scheduler():
    with host(COORDINATOR, deserialize=False) as there:
        there.service.serve({GetRoutes: lambda *_: Busy(retry_after_s=1.0)})
        calls = DaskTransport(there.address)
        answer = calls.call(COORDINATOR, GetRoutes(identity="x"), deadline_s=2)
        calls.close()
    assert answer == Busy(retry_after_s=1.0)
