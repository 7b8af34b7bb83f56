"""Spans that go on at another node, over real sockets."""

import pytest

from gpuvec import telemetry
from gpuvec.cluster.transport import DaskTransport
from gpuvec.cluster_messages import GetRoutes
from gpuvec.testing.dask_hosts import host
from gpuvec.testing.spans import collected_spans
from gpuvec.types import NodeId

NODE = NodeId("node-1")


@pytest.fixture
def spans():
    with collected_spans() as found:
        yield found


@pytest.fixture
def calls():
    with host(NODE) as there:
        there.service.serve({GetRoutes: answer})
        made = DaskTransport(there.address)
        made.learn(NODE, there.address)
        yield made
        made.close()


def answer(message, _):
    with telemetry.span("part", database=message.identity):
        return "here"


def test_what_a_node_does_is_a_child_of_the_call(spans, calls):
    with telemetry.span("scatter"):
        assert calls.call(NODE, GetRoutes(identity="x"), deadline_s=5) == "here"
    found = spans()
    assert found["gpuvec.part"].parent.span_id == found["gpuvec.scatter"].context.span_id
    assert found["gpuvec.part"].context.trace_id == found["gpuvec.scatter"].context.trace_id


def test_calls_outside_of_a_span_begin_a_trace_at_the_node(spans, calls):
    assert calls.call(NODE, GetRoutes(identity="x"), deadline_s=5) == "here"
    assert spans()["gpuvec.part"].parent is None
