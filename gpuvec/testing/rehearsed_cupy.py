"""The modules `cupy` and `cupyx` of a rehearsal: only names that CuPy has, called as CuPy says.

A function that NumPy has too forwards to NumPy, after its arguments were bound to CuPy's
parameters (`cupy_names`). What CuPy lacks is absent; what it has and nobody rehearses raises
`NotImplementedError`. RawModule runs the real source on the CPU, through `shim`.
"""

import contextlib
import importlib.machinery
import inspect
import types
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np

from gpuvec.testing import rehearsed_arrays as arrays
from gpuvec.testing.cupy_names import recorded, signature_of
from gpuvec.testing.rehearsed_arrays import DeviceArray, card, checked_dtype, run, unwrap, wrap
from gpuvec.testing.rehearsed_card import SHARED, Event, OutOfMemoryError, PinnedMemory, Stream
from gpuvec.testing.shim import ShimFunction, ShimModule

UFUNC = signature_of("*args out= casting= dtype=")
_CREATE = ("arange", "empty", "eye", "full", "identity", "linspace", "ones", "tri", "zeros")


class Device:
    """The card; see `cupy.cuda.Device`."""

    def __init__(self, device: int | None = None) -> None:
        if device not in (None, 0):
            raise AssertionError(f"a rehearsal has card 0 alone, not {device}")
        self.id = 0

    def __int__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device)

    def __hash__(self) -> int:
        return 0

    def use(self) -> None:
        """Make it current, which it is."""

    def synchronize(self) -> None:
        """Wait for the null stream, whose work is done at once."""

    @property
    def compute_capability(self) -> str:
        """Such as "90"."""
        return str(card().compute)

    @property
    def attributes(self) -> dict[str, int]:
        """Some of what the driver tells."""
        shared = SHARED[card().compute]
        return {"MultiProcessorCount": 4, "MaxSharedMemoryPerBlockOptin": shared}

    @property
    def mem_info(self) -> tuple[int, int]:
        """Free bytes, and all."""
        return _free_and_total()

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *_: object) -> None:
        """Leave it."""


class MemoryPool:
    """The card's pool; see `cupy.cuda.MemoryPool`."""

    def used_bytes(self) -> int:
        """In arrays."""
        return card().used

    def total_bytes(self) -> int:
        """In arrays, or free within the pool."""
        return card().held

    def free_bytes(self) -> int:
        """Free within the pool."""
        return card().held - card().used

    def free_all_blocks(self, stream: Stream | None = None) -> None:
        """Give free bytes back to the card."""
        card().free_pool()

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        """Set the bytes that the pool may have; 0: all."""
        wanted = card().total * fraction if fraction is not None else size
        card().limit = int(wanted or 0)

    def get_limit(self) -> int:
        """Return the bytes that the pool may have; 0: all."""
        return card().limit


class PinnedMemoryPool:
    """See `cupy.cuda.PinnedMemoryPool`."""

    def free_all_blocks(self) -> None:
        """Give free host memory back."""


class RawModule:
    """Compiled by g++; see `cupy.RawModule`."""

    def __init__(self, code: str | None = None, *, path: str | None = None,
                 options: tuple[str, ...] = (), backend: str = "nvrtc",
                 name_expressions: Any = None, jitify: bool = False) -> None:  # fmt: skip
        if code is None:
            raise NotImplementedError("a rehearsal compiles sources, it cannot run cubins")
        order, change, checked = _compiled[-1]
        source = code if change is None else change(code)
        if "cp.async" in source and card().compute < 80:
            raise RuntimeError("ptxas: feature 'cp.async' requires .target sm_80 or higher")
        shared = SHARED[card().compute]
        self._module = ShimModule(source, order=order, checked=checked, shared_bytes=shared)

    def get_function(self, name: str) -> ShimFunction:
        """Return a kernel."""
        return self._module.get_function(name, lambda: card().launches.append(name))


_compiled: list[tuple[int, Callable[[str], str] | None, bool]] = []


@contextlib.contextmanager
def compiled(
    order: int, change: Callable[[str], str] | None, checked: bool | None
) -> Iterator[None]:
    """Let kernels run in an order, from sources that are changed first, checked or as before."""
    before = _compiled[-1][2] if _compiled else False
    _compiled.append((order, change, before if checked is None else checked))
    try:
        yield
    finally:
        _compiled.pop()


def from_host(a: Any, dtype: Any = None, order: Any = None, *, copy: Any = None,
              blocking: bool = False) -> Any:  # fmt: skip
    """See `cupy.asarray`; a host array is copied to the card."""
    if isinstance(a, DeviceArray):
        return a if dtype is None or a.dtype == dtype else a.astype(dtype)
    if isinstance(a, tuple | list) and arrays.arrays_in(a):
        return run(np.array, (a,), {"dtype": dtype})
    values = np.array(a, dtype=dtype, order="F" if order == "F" else "C")
    checked_dtype(values.dtype)
    card().copies.to_device.append(values.nbytes)
    return wrap(values)


def _array(obj: Any, dtype: Any = None, copy: bool = True, order: str = "K", subok: bool = False,
           ndmin: int = 0, *, blocking: bool = False) -> Any:  # fmt: skip
    """See `cupy.array`."""
    if ndmin:
        raise NotImplementedError("ndmin")
    found = from_host(obj, dtype)
    return found.copy() if copy and found is obj else found


def _contiguous(a: Any, dtype: Any = None) -> Any:
    """See `cupy.ascontiguousarray`."""
    if not isinstance(a, DeviceArray):
        return from_host(a, dtype)
    return run(np.ascontiguousarray, (a,), {"dtype": dtype})


def _empty(shape: Any, dtype: Any = float, order: str = "C") -> Any:
    """See `cupy.empty`: memory as somebody left it."""
    values = np.empty(unwrap(shape), checked_dtype(dtype), order=order)  # type: ignore[call-overload]
    values.reshape(-1, order="A").view(np.uint8).fill(0xAB)
    return wrap(values)


def _empty_like(prototype: Any, dtype: Any = None, order: str = "K", subok: Any = None,
                shape: Any = None) -> Any:  # fmt: skip
    """See `cupy.empty_like`."""
    return _empty(prototype.shape if shape is None else shape, dtype or prototype.dtype)


def _repeat(a: Any, repeats: Any, axis: Any = None) -> Any:
    """See `cupy.repeat`, which takes no array of counts."""
    if isinstance(repeats, DeviceArray):
        raise TypeError("cupy.repeat takes repeats as an int, a list or a tuple, not as an array")
    return run(np.repeat, (a, repeats), {"axis": axis})


def _lexsort(keys: Any) -> Any:
    """See `cupy.lexsort`, which takes one array of keys."""
    if not isinstance(keys, DeviceArray) or keys.ndim > 2:
        raise TypeError("cupy.lexsort takes its keys as one array of one or two dimensions")
    return run(np.lexsort, (keys,), {})


def _to_numpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *,
              blocking: bool = True) -> Any:  # fmt: skip
    """See `cupy.asnumpy`."""
    return a.get(stream, order, out, blocking) if isinstance(a, DeviceArray) else np.asarray(a)


def _array_module(*args: Any) -> Any:
    """See `cupy.get_array_module`."""
    return modules()["cupy"] if arrays.arrays_in(args) else np


_OWN: dict[str, Callable[..., Any]] = {
    "array": _array, "asarray": from_host, "ascontiguousarray": _contiguous, "asnumpy": _to_numpy,
    "empty": _empty, "empty_like": _empty_like, "lexsort": _lexsort, "repeat": _repeat,
    "is_available": lambda: True,
    "get_array_module": _array_module,
    "get_default_memory_pool": MemoryPool, "get_default_pinned_memory_pool": PinnedMemoryPool,
}  # fmt: skip


def _free_and_total() -> tuple[int, int]:
    found = card()
    return found.total - found.others - found.held, found.total


def _forward(name: str, words: str) -> Callable[..., Any]:
    """Return NumPy's function behind CuPy's parameters."""
    numpys = getattr(np, name, None)
    function = _OWN.get(name)
    if function is None and not callable(numpys):
        raise NotImplementedError(f"nobody rehearses cupy.{name} yet: see rehearsed_cupy.py")
    takes = UFUNC if words.startswith("ufunc") else signature_of(words)

    def call(*args: Any, **kwargs: Any) -> Any:
        bound = takes.bind(*args, **kwargs)
        if function is not None:
            return function(*args, **kwargs)
        if name not in _CREATE and not arrays.arrays_in((*args, *kwargs.values())):
            raise TypeError(f"cupy.{name} called without a device array: {list(bound.arguments)}")
        return run(numpys, args, kwargs)  # type: ignore[arg-type]

    call.__name__ = name
    if isinstance(numpys, np.ufunc):
        call.at = _at(numpys)  # type: ignore[attr-defined]
        call.reduce = lambda array, **named: run(numpys.reduce, (array,), named)  # type: ignore[attr-defined]
    return call


def _at(function: np.ufunc) -> Callable[..., None]:
    def at(a: DeviceArray, indices: Any, b: Any = None) -> None:
        function.at(unwrap(a), unwrap(indices), unwrap(b))

    return at


class _Names(types.ModuleType):
    """A module whose names are those recorded of CuPy's."""

    def __init__(self, place: str, own: dict[str, Any]) -> None:
        super().__init__(place)
        self.__spec__ = importlib.machinery.ModuleSpec(place, None)
        self.__path__: list[str] = []
        vars(self).update(own)

    def __getattr__(self, name: str) -> Any:
        words = recorded().get(self.__name__, {}).get(name)
        if words is None or name.startswith("_"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if self.__name__ != "cupy":
            raise NotImplementedError(f"nobody rehearses {self.__name__}.{name} yet")
        numpys = getattr(np, name, None)
        plain = words == "value" or inspect.isclass(numpys) or name == "dtype"
        value = numpys if plain and numpys is not None else _forward(name, words)
        if name == "newaxis":
            return None
        setattr(self, name, value)
        return value


@cache
def modules() -> dict[str, types.ModuleType]:
    """Return what stands for CuPy in `sys.modules`."""
    runtime = _Names("cupy.cuda.runtime", {
        "getDevice": lambda: 0, "getDeviceCount": lambda: 1, "setDevice": Device,
        "memGetInfo": _free_and_total, "deviceSynchronize": lambda: None,
        "deviceGetDefaultMemPool": lambda device: 1, "memPoolTrimTo": lambda pool, size: None,
        "memPoolSetAttribute": lambda pool, attr, value: None,
        "cudaMemPoolAttrReleaseThreshold": 4,
        "runtimeGetVersion": lambda: 13000, "driverGetVersion": lambda: 13000,
        "getDeviceProperties": lambda device: {
            "name": b"rehearsed", "major": card().compute // 10, "minor": card().compute % 10,
            "multiProcessorCount": 4, "totalGlobalMem": card().total,
            "sharedMemPerBlockOptin": SHARED[card().compute],
        },
    })  # fmt: skip
    memory = _Names("cupy.cuda.memory", {"OutOfMemoryError": OutOfMemoryError})
    cuda = _Names("cupy.cuda", {
        "runtime": runtime, "memory": memory, "Device": Device, "Event": Event, "Stream": Stream,
        "MemoryPool": MemoryPool, "PinnedMemoryPool": PinnedMemoryPool,
        "MemoryPointer": arrays.MemoryPointer, "is_available": lambda: True,
        "get_current_stream": lambda device_id=None: Stream.current(),
        "get_device_id": lambda: 0, "alloc_pinned_memory": PinnedMemory,
    })  # fmt: skip
    cupy = _Names("cupy", {
        "cuda": cuda, "ndarray": DeviceArray, "RawModule": RawModule, "__version__": "14.2.0",
    })  # fmt: skip
    cupyx = _Names(
        "cupyx", {"empty_pinned": lambda shape, dtype=float, order="C": np.empty(shape, dtype)}
    )
    found = (cupy, cuda, runtime, memory, cupyx)
    return {module.__name__: module for module in found}
