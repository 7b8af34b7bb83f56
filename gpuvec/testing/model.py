"""The product as a dict and NumPy: what a collection must do, in the plainest words."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = dict[str, Any]


class ModelCollection:
    """Rows by primary key. Slow and obvious; the oracle of random histories.

    Args:
        key: the primary key's field.
        defaults: field to its default, None for null; the key is not among them.
    """

    def __init__(self, key: str, defaults: Mapping[str, Any]) -> None:
        self.key = key
        self.defaults = dict(defaults)
        self.rows: dict[Any, Row] = {}
        self.partition_of: dict[Any, str] = {}

    def insert(
        self, rows: Iterable[Row], *, partition: str = "", on_conflict: str = "error"
    ) -> tuple[int, int]:
        """Return how many were inserted and updated; `ValueError` if a key exists."""
        batch = [{**self.defaults, **row} for row in rows]
        taken = [row for row in batch if row[self.key] in self.rows]
        if taken and on_conflict == "error":
            raise ValueError(f"{taken[0][self.key]!r} exists")
        if on_conflict == "skip":
            batch = [row for row in batch if row[self.key] not in self.rows]
            taken = []
        for row in batch:
            self.rows[row[self.key]] = row
            self.partition_of[row[self.key]] = partition
        return len(batch) - len(taken), len(taken)

    def upsert(self, rows: Iterable[Row], *, partition: str = "") -> tuple[int, int]:
        """Return how many were inserted and updated; the last row of a key wins."""
        last = {row[self.key]: row for row in rows}
        return self.insert(last.values(), partition=partition, on_conflict="replace")

    def update(self, values: Mapping[str, Callable[[Row], Any]], test: Callable[[Row], Any]) -> int:
        """Set fields to functions of the old row, where the test is true."""
        hit = [row for row in self.rows.values() if test(row) is True]
        for row in hit:
            row.update({name: value(dict(row)) for name, value in values.items()})
        return len(hit)

    def delete(self, test: Callable[[Row], Any]) -> int:
        """Delete the rows for which the test is true; null counts as false."""
        gone = [key for key, row in self.rows.items() if test(row) is True]
        for key in gone:
            self._forget(key)
        return len(gone)

    def delete_keys(self, keys: Iterable[Any]) -> int:
        """Delete rows by key; unknown keys are passed over."""
        gone = [key for key in dict.fromkeys(keys) if key in self.rows]
        for key in gone:
            self._forget(key)
        return len(gone)

    def drop_partition(self, name: str) -> None:
        """Delete the rows of a partition."""
        self.delete(lambda row: self.partition_of[row[self.key]] == name)

    def truncate(self) -> None:
        """Delete all rows."""
        self.rows.clear()
        self.partition_of.clear()

    def add_field(self, name: str, default: Any) -> None:
        """Give every row a field."""
        self.defaults[name] = default
        for row in self.rows.values():
            row[name] = default

    def drop_field(self, name: str) -> None:
        """Take a field from every row."""
        del self.defaults[name]
        for row in self.rows.values():
            row.pop(name)

    def copy(self) -> "ModelCollection":
        """Return the collection as it is now, for later."""
        found = ModelCollection(self.key, self.defaults)
        found.rows = {key: dict(row) for key, row in self.rows.items()}
        found.partition_of = dict(self.partition_of)
        return found

    def restore(self, then: "ModelCollection") -> None:
        """Have the rows of a copy, with the fields of now."""
        self.rows = {key: {**self.defaults, **row} for key, row in then.rows.items()}
        self.partition_of = dict(then.partition_of)

    def table(self) -> list[Row]:
        """Return all rows by key, vectors as lists."""
        return [self.rows[key] for key in sorted(self.rows)]

    def nearest(
        self, query: NDArray[np.float32], k: int, field: str, test: Callable[[Row], Any]
    ) -> list[tuple[float, Any]]:
        """Return squared Euclidean distances, in float64, and keys of the k nearest rows."""
        found = [
            (float(((np.float64(row[field]) - np.float64(query)) ** 2).sum()), key)
            for key, row in self.rows.items()
            if row[field] is not None and test(row) is True
        ]
        return sorted(found)[:k]

    def _forget(self, key: Any) -> None:
        del self.rows[key]
        del self.partition_of[key]
