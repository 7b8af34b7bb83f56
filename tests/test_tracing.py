"""Spans, with OpenTelemetry's own SDK."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from gpuvec import telemetry


class _Exporter(InMemorySpanExporter):
    """Keeps spans during the tests of this file only: a provider is set once per process."""

    listening = False

    def export(self, spans):
        return super().export(spans) if self.listening else SpanExportResult.SUCCESS


_exporter = _Exporter()


@pytest.fixture
def spans():
    """Set OpenTelemetry up; what it exports is this list. A process can do so only once."""
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(_exporter))
        trace.set_tracer_provider(provider)
    _exporter.listening = True
    yield lambda: {span.name: span for span in _exporter.get_finished_spans()}
    _exporter.listening = False
    _exporter.clear()


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
