"""Spans, with OpenTelemetry's own SDK."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry.trace import StatusCode

from gpuvec import telemetry
from gpuvec.testing.spans import collected_spans


@pytest.fixture
def spans():
    with collected_spans() as found:
        yield found


def test_a_span_within_a_span_is_its_child(spans):
    with telemetry.span("search", queries=8), telemetry.span("plan"):
        pass
    found = spans()
    assert found["gpuvec.plan"].parent.span_id == found["gpuvec.search"].context.span_id
    assert found["gpuvec.search"].attributes == {"gpuvec.queries": 8}


def test_an_error_marks_the_span_and_goes_on(spans):
    with pytest.raises(ValueError, match="no"), telemetry.span("flush"):
        raise ValueError("no")
    assert spans()["gpuvec.flush"].status.status_code is StatusCode.ERROR


def test_a_span_goes_on_in_another_process(spans):
    with telemetry.span("search"):
        headers = telemetry.carrier()
    assert headers is not None
    with telemetry.continued(headers), telemetry.span("part"):
        pass
    found = spans()
    assert found["gpuvec.part"].parent.span_id == found["gpuvec.search"].context.span_id
    assert found["gpuvec.part"].context.trace_id == found["gpuvec.search"].context.trace_id


def test_a_span_goes_on_in_another_thread(spans):
    def work() -> None:
        with telemetry.span("part"):
            pass

    with ThreadPoolExecutor(1) as pool, telemetry.span("scatter"):
        pool.submit(telemetry.bound(work)).result()
    found = spans()
    assert found["gpuvec.part"].parent.span_id == found["gpuvec.scatter"].context.span_id


def test_outside_of_spans_nothing_travels(spans):
    assert telemetry.carrier() is None
    with telemetry.continued(None), telemetry.span("part"):
        pass
    assert spans()["gpuvec.part"].parent is None
