"""Device arrays of a rehearsal: NumPy beneath, and all the refusals of CuPy above.

An array is no `np.ndarray`: nothing turns it into one but `get`. Host arrays are refused in every
operation, as CuPy refuses them; loops over rows are refused, which CuPy would only do slowly.
Functions here take the card that is rehearsed from `CARD`.
"""

import operator
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from gpuvec.testing.rehearsed_card import Block, Card, Stream, root

CARD: list[Card] = []  # the card that is rehearsed, last entered last
_KINDS = "biufc"
_POISON = 0xAB


def card() -> Card:
    """Return the card that is rehearsed."""
    if not CARD:
        raise AssertionError("a device array outlived its rehearsal")
    return CARD[-1]


class MemoryPointer:
    """Where an array begins; see `cupy.cuda.MemoryPointer`."""

    def __init__(self, ptr: int, block: Block) -> None:
        self.ptr, self.mem = ptr, block


class DeviceArray:
    """See `cupy.ndarray`; `__rehearsed__` holds the values, for the rehearsal's own parts only."""

    __slots__ = ("__rehearsed__", "__weakref__", "_block")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, values: np.ndarray[Any, Any], block: Block) -> None:
        self.__rehearsed__ = values
        self._block = block

    # ---- what it is ----
    shape = property(lambda self: self.__rehearsed__.shape)
    dtype = property(lambda self: self.__rehearsed__.dtype)
    ndim = property(lambda self: self.__rehearsed__.ndim)
    size = property(lambda self: self.__rehearsed__.size)
    itemsize = property(lambda self: self.__rehearsed__.itemsize)
    nbytes = property(lambda self: self.__rehearsed__.nbytes)
    strides = property(lambda self: self.__rehearsed__.strides)
    flags = property(lambda self: self.__rehearsed__.flags)
    T = property(lambda self: wrap(self.__rehearsed__.T, self))

    @property
    def data(self) -> MemoryPointer:
        """Where it begins."""
        return MemoryPointer(self.__rehearsed__.ctypes.data, self._block)

    @property
    def device(self) -> Any:
        """The card it lies on."""
        from gpuvec.testing.rehearsed_cupy import Device

        return Device(0)

    def __len__(self) -> int:
        return len(self.__rehearsed__)

    def __repr__(self) -> str:
        return f"DeviceArray({self.shape}, {self.dtype})"

    def __iter__(self) -> NoReturn:
        raise TypeError("a loop over the rows of a device array: one copy a row; use functions")

    def __array__(self, dtype: Any = None, copy: Any = None) -> NoReturn:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> NoReturn:
        raise TypeError(
            f"numpy.{func.__name__} called on a device array; take the array's namespace"
        )

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        """Refuse NumPy's functions, and NumPy scalars' operators take ours."""
        left = args[0]
        if method == "__call__" and len(args) == 2 and isinstance(left, np.generic):
            return run(ufunc, args, kwargs)
        raise TypeError(f"numpy.{ufunc.__name__} called on a device array; take its namespace")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, **_: Any) -> NoReturn:
        raise BufferError("device memory of a rehearsal cannot be given to another library")

    # ---- to the host, counted ----
    def get(
        self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True
    ) -> Any:
        """Copy to the host; with a stream and `blocking=False`, when somebody waits for it."""
        values = self.__rehearsed__
        card().copies.to_host.append(values.nbytes)
        queue = stream or Stream.current()
        if out is None:
            out = np.empty(values.shape, values.dtype)
        if blocking:
            queue.synchronize()
            out[...] = values
        else:
            out.view(np.uint8).fill(_POISON) if out.ndim else None
            queue.later(lambda: np.copyto(out, values))
        return out

    def item(self) -> Any:
        """Copy the only value to the host."""
        return self.get().item()

    def tolist(self) -> Any:
        """Copy to the host, as lists."""
        return self.get().tolist()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __index__(self) -> int:
        return operator.index(self.get().item())

    # ---- from the host, counted ----
    def set(self, arr: Any, stream: Any = None) -> None:
        """Copy from the host; on a stream, when somebody waits for it."""
        values = self.__rehearsed__
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != values.dtype or arr.shape != values.shape:
            raise TypeError(f"{arr.dtype} {arr.shape} cannot be set to {self.dtype} {self.shape}")
        card().copies.to_device.append(values.nbytes)
        queue = stream or Stream.current()
        if not queue.is_null:
            values[...] = (
                np.full(values.size * values.itemsize, _POISON, np.uint8)
                .view(values.dtype)
                .reshape(values.shape)
            )
        queue.later(lambda: np.copyto(values, arr))

    # ---- parts ----
    def __getitem__(self, key: Any) -> Any:
        return run(lambda x, at: x[at], (self, key), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__rehearsed__[unwrap(key)] = unwrap(value)

    def astype(self, dtype: Any, order: str = "K", casting: str = "unsafe", subok: Any = None,
               copy: bool = True) -> Any:  # fmt: skip
        """See `cupy.ndarray.astype`."""
        checked_dtype(dtype)
        with np.errstate(all="ignore"):
            values: Any = self.__rehearsed__
            values = values.astype(dtype, order=order, casting=casting, copy=copy)
        return wrap(values, self)

    def view(self, dtype: Any = None) -> Any:
        """See `cupy.ndarray.view`."""
        values = self.__rehearsed__
        return wrap(values.view() if dtype is None else values.view(checked_dtype(dtype)), self)

    def fill(self, value: Any) -> None:
        """See `cupy.ndarray.fill`."""
        self.__rehearsed__.fill(unwrap(value))

    def __copy__(self) -> Any:
        return self.copy()  # type: ignore[attr-defined]

    def __reduce__(self) -> Any:
        from gpuvec.testing.rehearsed_cupy import from_host

        return from_host, (self.get(),)


def checked_dtype(dtype: Any) -> Any:
    """Refuse dtypes that CuPy lacks."""
    found = np.dtype(dtype)
    if found.kind not in _KINDS or found.type.__module__ != "numpy":
        raise ValueError(f"Unsupported dtype {found}")
    return found


def wrap(values: Any, *sources: DeviceArray) -> Any:
    """Return values as an array of the card: a view of a source, or memory that is taken for it."""
    if isinstance(values, tuple):
        return tuple(wrap(part, *sources) for part in values)
    if not isinstance(values, np.ndarray | np.generic):
        return values
    values = np.asarray(values)
    checked_dtype(values.dtype)
    owner = root(values)
    for source in sources:
        if root(source.__rehearsed__) is owner:
            return DeviceArray(values, source._block)
    return DeviceArray(values, card().take(values.nbytes))


def unwrap(value: Any) -> Any:
    """Return an argument as NumPy takes it.

    Raises:
        TypeError: a host array, as CuPy says it.
    """
    if isinstance(value, DeviceArray):
        return value.__rehearsed__
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}: a host array among device arrays")
    if isinstance(value, tuple | list):
        return type(value)(unwrap(part) for part in value)
    return value


def arrays_in(value: Any) -> list[DeviceArray]:
    """Return the device arrays among arguments."""
    if isinstance(value, DeviceArray):
        return [value]
    if isinstance(value, tuple | list):
        return [found for part in value for found in arrays_in(part)]
    return list(arrays_in(list(value.values()))) if isinstance(value, dict) else []


def run(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a NumPy function on the values of device arrays."""
    sources = [*arrays_in(args), *arrays_in(kwargs)]
    plain = {name: unwrap(value) for name, value in kwargs.items()}
    with np.errstate(all="ignore"):
        found = function(*(unwrap(value) for value in args), **plain)
    card().operations += getattr(found, "base", None) is None  # views start nothing
    if kwargs.get("out") is not None:
        return kwargs["out"]
    return wrap(found, *sources)


def _operator(function: Any) -> Callable[..., Any]:
    def method(self: Any, *args: Any) -> Any:
        return run(function, (self, *args), {})

    return method


def _reflected(function: Any) -> Callable[..., Any]:
    def method(self: Any, other: Any) -> Any:
        return run(function, (other, self), {})

    return method


def _in_place(function: Any) -> Callable[..., Any]:
    def method(self: DeviceArray, other: Any) -> DeviceArray:
        with np.errstate(all="ignore"):
            function(self.__rehearsed__, unwrap(other))
        return self

    return method


def _method(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return run(
            lambda x, *rest, **named: getattr(x, name)(*rest, **named), (self, *args), kwargs
        )

    method.__name__ = name
    return method


def _add_operators() -> None:
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor",
                 "lshift", "rshift", "matmul"):  # fmt: skip
        function = getattr(operator, name + "_" if name in ("and", "or") else name)
        setattr(DeviceArray, f"__{name}__", _operator(function))
        setattr(DeviceArray, f"__r{name}__", _reflected(function))
        setattr(DeviceArray, f"__i{name}__", _in_place(getattr(operator, "i" + name)))
    for name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert"):
        setattr(DeviceArray, f"__{name}__", _operator(getattr(operator, name)))


METHODS = (
    "all", "any", "argmax", "argmin", "argpartition", "argsort", "clip", "copy", "cumprod",
    "cumsum", "diagonal", "dot", "flatten", "max", "mean", "min", "nonzero", "partition", "prod",
    "ravel", "repeat", "reshape", "round", "searchsorted", "sort", "squeeze", "std", "sum",
    "swapaxes", "take", "transpose", "var",
)  # fmt: skip

_add_operators()
for _name in METHODS:
    setattr(DeviceArray, _name, _method(_name))
