"""Spans of OpenTelemetry, where the user has set it up; else next to nothing.

gpuvec neither imports nor configures OpenTelemetry: it joins a tracer provider that is there.
Context goes over wires as the headers of W3C Trace Context, in a dict.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_NOTHING: AbstractContextManager[Any] = nullcontext()
_known: tuple[Any, Any] = (None, None)  # a provider and its tracer


def span(name: str, **attributes: str | float | bool) -> AbstractContextManager[Any]:
    """Return a block that is a span `gpuvec.<name>`; an error in it marks the span as failed.

    Args:
        name: of the work: `search`, `flush`.
        attributes: written as `gpuvec.<attribute>`.

    Cost: a microsecond where OpenTelemetry is not set up.
    """
    tracer = _tracer()
    if tracer is None:
        return _NOTHING
    named = {f"gpuvec.{key}": value for key, value in attributes.items()}
    found: AbstractContextManager[Any] = tracer.start_as_current_span(
        f"gpuvec.{name}", attributes=named
    )
    return found


def carrier() -> dict[str, str] | None:
    """Return the present span as headers for a message; None where nothing is traced."""
    if _tracer() is None:
        return None
    from opentelemetry import propagate

    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers or None


def continued(headers: Mapping[str, str] | None) -> AbstractContextManager[None]:
    """Return a block whose spans are children of the one that `carrier` told."""
    if not headers or _tracer() is None:
        return _NOTHING
    from opentelemetry import propagate

    return _attached(propagate.extract(headers))


def bound(work: Callable[P, R]) -> Callable[P, R]:
    """Return `work` for another thread, where its spans are children of the present one."""
    if _tracer() is None:
        return work
    from opentelemetry import context

    here = context.get_current()

    @wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with _attached(here):
            return work(*args, **kwargs)

    return run


@contextmanager
def _attached(found: Any) -> Iterator[None]:
    from opentelemetry import context

    token = context.attach(found)
    try:
        yield
    finally:
        context.detach(token)


def _tracer() -> Any:
    """Return gpuvec's tracer; None unless a provider was set."""
    global _known
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    provider = trace.get_tracer_provider()
    if provider is not _known[0]:
        idle = isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)
        _known = (provider, None if idle else provider.get_tracer("gpuvec"))
    return _known[1]
