"""cuVS, imported when first needed, and what its indexes share: handles, masks, gaps.

A handle orders work on a stream, and belongs to one thread at a time. Called with one, cuVS returns
before its work is done: `waiting` waits for it, so that arrays it was given may go.
"""

import importlib
import importlib.util
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from gpuvec.device.arrays import array_namespace
from gpuvec.device.library import cupy_module
from gpuvec.errors import index_library_missing
from gpuvec.kernels.bitset import BitSet
from gpuvec.types import Array

_FAR = 3e38  # cuVS says "none" by greater distances, beside ids of rows that it should not find
_local = threading.local()


@cache
def has_cuvs(module: str = "") -> bool:
    """Return whether cuVS is installed, with a module of `cuvs.neighbors` if one is named."""
    if importlib.util.find_spec("cuvs") is None:
        return False
    return not module or importlib.util.find_spec(f"cuvs.neighbors.{module}") is not None


def neighbors_module(name: str) -> Any:
    """Import and return a module of `cuvs.neighbors`.

    Raises:
        UnsupportedError: `GV-320`, it is not installed.
    """
    try:
        return importlib.import_module(f"cuvs.neighbors.{name}")
    except ImportError as error:
        raise index_library_missing(f"cuvs.neighbors.{name}", extra="gpu-cu13") from error


def cuvs_version() -> str:
    """Return the version of cuVS."""
    return str(importlib.import_module("cuvs").__version__)


@contextmanager
def waiting() -> Iterator[Any]:
    """Yield this thread's handle for CuPy's current stream; wait for its work at the end."""
    stream = int(cupy_module().cuda.get_current_stream().ptr)
    handles: dict[int, Any] = _local.__dict__.setdefault("handles", {})
    if stream not in handles:
        common = importlib.import_module("cuvs.common")
        handles[stream] = common.Resources(stream=stream) if stream else common.Resources()
    handle = handles[stream]
    try:
        yield handle
    finally:
        handle.sync()


def forget_handles() -> None:
    """Let go of this thread's handles."""
    _local.__dict__.pop("handles", None)


def prefilter(keep: BitSet | None) -> Any:
    """Return cuVS's form of a mask over nodes; None: it stays None."""
    return None if keep is None else neighbors_module("filters").from_bitset(keep.words)


def found_nodes(
    search: Callable[..., Any], queries: Array, count: int, nodes: int, *, dtype: str = "int64"
) -> Array:
    """Have cuVS search; return (m, count) int64 nodes, -1 where it found none.

    Args:
        search: takes `neighbors`, `distances` and `resources`, and fills the first two.
        queries: (m, dim) on the device.
        count: candidates of each.
        nodes: of the index.
        dtype: of the ids that this search writes.
    """
    xp = array_namespace(queries)
    ids = xp.empty((len(queries), count), dtype)
    distances = xp.empty((len(queries), count), xp.float32)
    with waiting() as handle:
        search(neighbors=ids, distances=distances, resources=handle)
    found = ids.astype(xp.int64)
    # By distance, never by id alone: ids beside a great distance are of rows it should not find.
    real = (xp.abs(distances) < _FAR) & (found >= 0) & (found < nodes)
    return xp.where(real, found, -1)
