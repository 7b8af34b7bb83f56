"""Fragments: the part of a plan that a node answers for its segments alone, as it travels there.

A fragment is a chain of filters, projections and computed columns over all rows of one source.
"""

import hashlib
import pickle
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

from gpuvec.query import plan as p
from gpuvec.query.spread import Spread
from gpuvec.segment.view import Snapshot

_STREAMED = p.Filter | p.Project | p.WithColumns
_KEPT = 256  # plans that were read from their bytes


@dataclass(frozen=True, slots=True)
class Fragment:
    """A plan over one source, as bytes.

    Attributes:
        key: names the plan; equal plans have equal keys.
        plan: pickled, its source left out.
        partition: the rows of this one alone; None: all.
    """

    key: bytes
    plan: bytes
    partition: str | None = None


NO_FRAGMENT = Fragment(b"", b"")


class Elsewhere:
    """Stands for a source in a plan that travels."""

    name = ""

    @property
    def schema(self) -> p.Fields:
        """See `Source.schema`."""
        raise AssertionError("a plan is given its source before it is read")

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """See `Source.snapshot`."""
        raise AssertionError("a plan is given its source before it is read")


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """A snapshot, or some of its segments, as a source."""

    given: Snapshot

    @property
    def name(self) -> str:
        """See `Source.name`."""
        return self.given.name

    @property
    def schema(self) -> p.Fields:
        """See `Source.schema`."""
        return cast(p.Fields, self.given.schema)

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """See `Source.snapshot`."""
        yield self.given


def spread_of(node: p.Plan) -> Spread | None:
    """Return how nodes know the source of a fragment.

    None: the plan is no fragment, or this process alone can read it.
    """
    scan = scan_of(node)
    found: Spread | None = None if scan is None else getattr(scan.source, "spread", None)
    return found


def scan_of(node: p.Plan) -> p.Scan | None:
    """Return the scan whose rows a plan filters and computes columns of; None: it does more."""
    while isinstance(node, _STREAMED):
        node = node.input
    return node if isinstance(node, p.Scan) else None


def branches(node: p.Plan) -> Iterator[p.Plan]:
    """Yield plans that one after the other have the rows of a plan."""
    if isinstance(node, p.Concat):
        for part in node.parts:
            yield from branches(part)
    elif isinstance(node, _STREAMED):
        for below in branches(node.input):
            yield node if below is node.input else replace(node, input=below)
    else:
        yield node


def pack(node: p.Plan, partition: str | None) -> Fragment:
    """Return a fragment as it travels."""
    data = pickle.dumps(_over(node, Elsewhere()), protocol=5)
    return Fragment(hashlib.blake2b(data, digest_size=16).digest(), data, partition)


def unpack(fragment: Fragment, source: p.Source) -> p.Plan:
    """Return the plan of a fragment over a source."""
    return _over(_read(fragment.plan), source)


def without_filters(node: p.Plan) -> p.Plan:
    """Return the same columns of all rows."""
    if isinstance(node, p.Filter):
        return without_filters(node.input)
    if isinstance(node, _STREAMED):
        return replace(node, input=without_filters(node.input))
    return node


def has_filters(node: p.Plan) -> bool:
    """Return whether a fragment leaves rows out."""
    if isinstance(node, p.Filter):
        return True
    return isinstance(node, _STREAMED) and has_filters(node.input)


def pack_search(node: p.Search) -> bytes:
    """Return a search as it travels: of its input the columns alone, and no queries."""
    bare = replace(node, input=p.Plan(columns=node.input.columns), queries=cast(Any, None))
    return pickle.dumps(bare, protocol=5)


def unpack_search(data: bytes) -> p.Search:
    """Return what `pack_search` packed."""
    return cast(p.Search, _read(data))


@lru_cache(maxsize=_KEPT)
def _read(data: bytes) -> p.Plan:
    found: p.Plan = pickle.loads(data)
    return found


def _over(node: p.Plan, source: p.Source) -> p.Plan:
    if isinstance(node, p.Scan):
        return replace(node, source=source)
    assert isinstance(node, _STREAMED)
    return replace(node, input=_over(node.input, source))
