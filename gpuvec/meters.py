"""Counters, histograms and gauges of this process, cheap enough for every call.

Nothing here knows Prometheus: `gpuvec.exposition` turns readings into its text.
"""

import os
import threading
import weakref
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Labels = tuple[str, ...]
Kind = Literal["counter", "gauge", "histogram"]

# Upper bounds of histograms of seconds; two to a factor of ten, since searches and builds share it.
SECONDS = (
    0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reading:
    """One meter's value under one set of labels, as plain values that travel well.

    Attributes:
        labels: values, in the order of the meter's label names.
        value: of counters and gauges; the sum of a histogram.
        counts: of a histogram, one for each bucket and one beyond the last; else empty.
    """

    name: str
    labels: Labels
    value: float
    counts: tuple[int, ...] = ()


class _Meter(ABC):
    """A name, what it means, and the names of its labels."""

    kind: Kind

    def __init__(self, meters: "Meters", name: str, meaning: str, labels: Labels) -> None:
        self.name = name
        self.meaning = meaning
        self.labels = labels
        self._lock = threading.Lock()
        meters.add(self)

    def renew(self) -> None:
        """Take a fresh lock: a forked child's may be held by a thread that it does not have."""
        self._lock = threading.Lock()

    @abstractmethod
    def read(self) -> list[Reading]:
        """Return its values."""


class Counter(_Meter):
    """Counts up, under labels. Safe for use by several threads."""

    kind = "counter"

    def __init__(self, meters: "Meters", name: str, meaning: str, labels: Labels) -> None:
        super().__init__(meters, name, meaning, labels)
        self._values: dict[Labels, float] = {} if labels else {(): 0}

    def add(self, amount: float = 1, *labels: str) -> None:
        """Add to the count under these values of the labels. Cost: half a microsecond."""
        with self._lock:
            self._values[labels] = self._values.get(labels, 0) + amount

    def value(self, *labels: str) -> float:
        """Return the count so far."""
        return self._values.get(labels, 0)

    def read(self) -> list[Reading]:
        """See `_Meter.read`."""
        with self._lock:
            return [Reading(self.name, labels, value) for labels, value in self._values.items()]


class Histogram(_Meter):
    """How often a value fell into which bucket. Safe for use by several threads."""

    kind = "histogram"

    def __init__(
        self,
        meters: "Meters",
        name: str,
        meaning: str,
        labels: Labels,
        bounds: tuple[float, ...] = SECONDS,
    ) -> None:
        super().__init__(meters, name, meaning, labels)
        self.bounds = bounds
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}
        if not labels:
            self._counts[()], self._sums[()] = [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float, *labels: str) -> None:
        """Note a value. Cost: half a microsecond."""
        at = bisect_left(self.bounds, value)
        with self._lock:
            counts = self._counts.get(labels)
            if counts is None:
                counts = self._counts[labels] = [0] * (len(self.bounds) + 1)
            counts[at] += 1
            self._sums[labels] = self._sums.get(labels, 0.0) + value

    def count(self, *labels: str) -> int:
        """Return how many values were noted."""
        return sum(self._counts.get(labels, ()))

    def read(self) -> list[Reading]:
        """See `_Meter.read`."""
        with self._lock:
            return [
                Reading(self.name, labels, self._sums[labels], tuple(counts))
                for labels, counts in self._counts.items()
            ]


class Gauge(_Meter):
    """A value that goes up and down: told by `Meters.watch`, or set."""

    kind = "gauge"

    def __init__(self, meters: "Meters", name: str, meaning: str, labels: Labels) -> None:
        super().__init__(meters, name, meaning, labels)
        self._values: dict[Labels, float] = {}

    def set(self, value: float, *labels: str) -> None:
        """Set what nothing can be asked for later."""
        with self._lock:
            self._values[labels] = value

    def at(self, value: float, *labels: str) -> Reading:
        """Return a reading, for `Meters.watch`."""
        return Reading(self.name, labels, value)

    def read(self) -> list[Reading]:
        """See `_Meter.read`."""
        with self._lock:
            return [Reading(self.name, labels, value) for labels, value in self._values.items()]


class Meters:
    """All meters of a process, by name."""

    def __init__(self) -> None:
        self._meters: dict[str, _Meter] = {}
        self._watched: list[tuple[weakref.ref[Any], Callable[[Any], Iterable[Reading]]]] = []
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._renew)

    def add(self, meter: _Meter) -> None:
        """Take a meter in; its name must be new."""
        assert meter.name not in self._meters, meter.name
        self._meters[meter.name] = meter

    def meter(self, name: str) -> _Meter:
        """Return a meter by name; `KeyError` if there is none."""
        return self._meters[name]

    def __contains__(self, name: str) -> bool:
        return name in self._meters

    def __iter__(self) -> Iterator[_Meter]:
        return iter(self._meters.values())

    def watch(self, owner: T, read: Callable[[T], Iterable[Reading]]) -> None:
        """Ask `read` for gauges of `owner` at every reading, as long as `owner` lives.

        Args:
            owner: held weakly, so `read` must not hold it either.
            read: quick, asks no store; readings of one gauge and labels are added up.
        """
        with self._lock:
            self._watched = [item for item in self._watched if item[0]() is not None]
            self._watched.append((weakref.ref(owner), read))

    def read(self) -> list[Reading]:
        """Return all that there is to say, gauges of what is watched included."""
        found = [reading for meter in self._meters.values() for reading in meter.read()]
        sums: dict[tuple[str, Labels], float] = {}
        with self._lock:
            watched = list(self._watched)
        for reference, read in watched:
            owner = reference()
            for reading in () if owner is None else read(owner):
                key = (reading.name, reading.labels)
                sums[key] = sums.get(key, 0.0) + reading.value
        found += [Reading(name, labels, value) for (name, labels), value in sums.items()]
        return found

    def _renew(self) -> None:
        self._lock = threading.Lock()
        for meter in self._meters.values():
            meter.renew()
