"""OpenTelemetry set up for tests, as a user would: spans end up in a list."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class _Exporter(InMemorySpanExporter):
    """Keeps spans only while somebody looks: a process gets a provider once, and for good."""

    listening = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return super().export(spans) if self.listening else SpanExportResult.SUCCESS


@cache
def _exporter() -> _Exporter:
    made, provider = _Exporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(made))
    trace.set_tracer_provider(provider)
    return made


@contextmanager
def collected_spans() -> Iterator[Callable[[], dict[str, ReadableSpan]]]:
    """Yield what returns the spans that ended in the block, the last of each name."""
    exporter = _exporter()
    exporter.listening = True
    try:
        yield lambda: {span.name: span for span in exporter.get_finished_spans()}
    finally:
        exporter.listening = False
        exporter.clear()
