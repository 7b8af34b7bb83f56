"""Readings in the form of Prometheus. Imported only where somebody wants that."""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gpuvec import errors
from gpuvec.meters import Histogram, Meters, Reading

if TYPE_CHECKING:
    from prometheus_client.core import Metric

Labelled = tuple[dict[str, str], Reading]  # labels beside the meter's own, and what was read

_lock = threading.Lock()


def families(meters: Meters, readings: Iterable[Labelled]) -> "Iterator[Metric]":
    """Yield one family for each name, with all its samples.

    Args:
        meters: say what the names mean; readings of others, of a later gpuvec perhaps, are left
            out.
        readings: each with more labels, such as the worker's name.
    """
    from prometheus_client.core import Metric

    by_name: dict[str, list[Labelled]] = {}
    for more, reading in readings:
        if reading.name in meters:
            by_name.setdefault(reading.name, []).append((more, reading))
    for name, found in sorted(by_name.items()):
        meter = meters.meter(name)
        family = Metric(name.removesuffix("_total"), meter.meaning, meter.kind)
        for more, reading in found:
            labels = {**more, **dict(zip(meter.labels, reading.labels, strict=False))}
            if isinstance(meter, Histogram):
                _add_buckets(family, name, labels, reading, meter.bounds)
            else:
                family.add_sample(name, labels, reading.value)
        yield family


def _add_buckets(
    family: Any, name: str, labels: dict[str, str], reading: Reading, bounds: Sequence[float]
) -> None:
    totals = list(itertools.accumulate(reading.counts))
    for bound, total in zip([*map(str, bounds), "+Inf"], totals, strict=False):
        family.add_sample(f"{name}_bucket", {**labels, "le": bound}, total)
    family.add_sample(f"{name}_count", labels, totals[-1] if totals else 0)
    family.add_sample(f"{name}_sum", labels, reading.value)


def reading_of(values: Sequence[Any]) -> Reading:
    """Return a reading that `telemetry.snapshot` wrote."""
    name, labels, value, counts = values
    return Reading(str(name), tuple(map(str, labels)), float(value), tuple(map(int, counts)))


class Collector:
    """What prometheus_client asks at each scrape.

    Args:
        meters: of this process.
        others: more readings, of other processes.
    """

    def __init__(
        self, meters: Meters, others: Callable[[], Iterable[Labelled]] = lambda: ()
    ) -> None:
        self._meters = meters
        self._others = others

    def describe(self) -> "Iterator[Metric]":
        """Say nothing before the first scrape: which names there are depends on what happens."""
        return iter(())

    def collect(self) -> "Iterator[Metric]":
        """Yield everything."""
        own: list[Labelled] = [({}, reading) for reading in self._meters.read()]
        return families(self._meters, [*own, *self._others()])


def register_meters(
    meters: Meters, others: Callable[[], Iterable[Labelled]] | None = None
) -> Callable[[], None]:
    """Put meters into prometheus_client's default registry, once however often it is asked for.

    Args:
        meters: of this process.
        others: readings of other processes, shown as long as this registration lasts.

    Returns:
        What ends it; may be called again.

    Raises:
        UnsupportedError: `GV-785`, prometheus_client is not installed.
    """
    try:
        from prometheus_client import REGISTRY
    except ModuleNotFoundError:
        raise errors.no_prometheus() from None
    with _lock:
        hub = _hubs.get(id(meters))
        if hub is None:
            hub = _hubs[id(meters)] = _Hub(meters, REGISTRY)
        return hub.join(others or (lambda: ()))


class _Hub:
    """One collector for all that registered in this process: a second one would be refused."""

    def __init__(self, meters: Meters, registry: Any) -> None:
        self._members: list[Callable[[], Iterable[Labelled]]] = []
        self._registry = registry
        self._collector = Collector(meters, self._all)

    def _all(self) -> list[Labelled]:
        return [reading for member in tuple(self._members) for reading in member()]

    def join(self, member: Callable[[], Iterable[Labelled]]) -> Callable[[], None]:
        if not self._members:
            self._registry.register(self._collector)
        token = lambda: member()  # noqa: E731 - a new object each time, to be found again
        self._members.append(token)

        def leave() -> None:
            with _lock:
                if token in self._members:
                    self._members.remove(token)
                    if not self._members:
                        self._registry.unregister(self._collector)

        return leave


_hubs: dict[int, _Hub] = {}
