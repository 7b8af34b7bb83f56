"""CUDA sources compiled by g++ with `shim.h`, and called as CuPy calls a `RawModule`.

Arguments are checked against the C types of the source: what a card would take for good and read
wrongly is refused here.
"""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

_HEADERS = ("shim.h", "tile_twin.h")
FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-w", "-shared", "-fPIC")
CHECKED = ("-DSHIM_UCONTEXT", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
_KERNEL = re.compile(r'extern\s*"C"\s*__global__\s*void\s+(?:__launch_bounds__\([^)]*\)\s*)?'
                     r"(\w+)\s*\(([^)]*)\)")  # fmt: skip
_SCALARS = {
    "i64": np.int64, "long long": np.int64, "u64": np.uint64, "int": np.int32, "u32": np.uint32,
    "unsigned": np.uint32, "float": np.float32, "double": np.float64, "bool": np.bool_,
}  # fmt: skip
_STORED = {
    "float": "float32", "double": "float64", "i64": "int64", "u64": "uint64", "u32": "uint32",
    "int": "int32", "u16": "uint16", "u8": "uint8 bool", "signed char": "int8", "f16": "float16",
    "bf16": "uint16", "bool": "bool uint8",
}  # fmt: skip
_C = {
    np.int64: ctypes.c_int64, np.uint64: ctypes.c_uint64, np.int32: ctypes.c_int32,
    np.uint32: ctypes.c_uint32, np.float32: ctypes.c_float, np.float64: ctypes.c_double,
    np.bool_: ctypes.c_bool,
}  # fmt: skip
_TINY = """
#ifdef DOUBLES_MAY_BE_TINY
#define SHIM_TINY_IS_ZERO false
#else
#define SHIM_TINY_IS_ZERO true
#endif
"""
_ONE_AT_A_TIME = threading.Lock()  # libraries share what the shim defines: g++ makes it unique


class ShimError(AssertionError):
    """A kernel that hangs, shuffles with lanes that are gone, or is called with wrong arguments."""


def has_compiler() -> bool:
    """Return whether there is a g++ to build with."""
    return shutil.which("g++") is not None


@cache
def build(source: str, *, checked: bool = False) -> Path:
    """Compile a CUDA source for the CPU; kept between processes under a hash of all that matters.

    Args:
        source: as `launch.source_of` gives it.
        checked: with AddressSanitizer and UBSan; load it only into a process that has them.

    Returns:
        A shared library with a function `run_NAME` for each kernel.

    Raises:
        ShimError: g++ refuses it; the text is g++'s.
    """
    flags = (*FLAGS, *CHECKED) if checked else FLAGS
    folder = Path(__file__).parent
    text = "".join((folder / name).read_text() for name in _HEADERS if (folder / name).exists())
    text += source
    key = hashlib.sha256("\0".join((text, *flags)).encode()).hexdigest()[:24]
    folder = cache_folder()
    library = folder / f"{key}.so"
    if library.exists():
        return library
    with tempfile.TemporaryDirectory(dir=folder) as made:
        code, new = Path(made) / "code.cpp", Path(made) / "code.so"
        code.write_text(text + _entries(source))
        _run(["g++", *flags, "-o", str(new), str(code)])
        new.replace(library)
    return library


def cache_folder() -> Path:
    """Return the folder of this user's compiled libraries; it outlives the process."""
    folder = Path(tempfile.gettempdir()) / f"gpuvec-shim-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ShimError(f"{folder} belongs to another user; remove it")
    return folder


@cache
def signatures(source: str) -> dict[str, tuple[str, ...]]:
    """Return the parameters of every kernel in a source, as the preprocessor leaves them."""
    flat = _run(["g++", "-E", "-P", "-x", "c++", "-"], source)
    return {
        name: tuple(" ".join(part.split()) for part in parameters.split(",") if part.strip())
        for name, parameters in _KERNEL.findall(flat)
    }


def _entries(source: str) -> str:
    text = _TINY
    for name, parameters in signatures(source).items():
        names = ", ".join(_name_of(part) for part in parameters)
        own = "".join(f", {part}" for part in parameters)
        text += (
            f'\nextern "C" const char* run_{name}(const unsigned* shim_sizes, unsigned shim_seed, '
            f"unsigned long long shim_bytes{own}) {{ return shim::launch("
            "shim_sizes, shim_seed, shim_bytes, SHIM_TINY_IS_ZERO, "
            f"[&] {{ {name}({names}); }}); }}\n"
        )
    return text


def _name_of(parameter: str) -> str:
    return re.split(r"[\s*]", parameter)[-1]


def _run(command: list[str], text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ShimError(done.stderr[-4000:])
    return done.stdout


class ShimModule:
    """The kernels of one source, in host memory.

    Args:
        source: as `launch.source_of` gives it.
        order: in which fibers run; another number, another order.
        checked: see `build`.
        shared_bytes: that a block may ask for.
    """

    def __init__(
        self, source: str, *, order: int = 1, checked: bool = False, shared_bytes: int = 227 << 10
    ) -> None:
        self._library = ctypes.CDLL(str(build(source, checked=checked)))
        self._signatures = signatures(source)
        self._order, self._shared_bytes = order, shared_bytes
        self._lock = _ONE_AT_A_TIME

    def get_function(self, name: str, started: Callable[[], None] = lambda: None) -> "ShimFunction":
        """Return a kernel; see `cupy.RawModule.get_function`. `started` is told of each launch."""
        if name not in self._signatures:
            raise ShimError(f"the source has no kernel {name}, only {sorted(self._signatures)}")
        run = getattr(self._library, f"run_{name}")
        run.restype = ctypes.c_char_p
        return ShimFunction(
            name, run, self._signatures[name], self._order, self._lock, started, self._shared_bytes
        )


class ShimFunction:
    """A kernel, called as `cupy.RawKernel` is, on arrays whose memory the CPU can reach."""

    def __init__(
        self, name: str, run: Any, parameters: tuple[str, ...], order: int, lock: threading.Lock,
        started: Callable[[], None], shared_bytes: int,
    ) -> None:  # fmt: skip
        self.name = name
        self._started = started
        self._asked, self._most = 48 << 10, shared_bytes
        self._run, self._parameters, self._order, self._lock = run, parameters, order, lock

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        """Bytes that launches may ask for; more than the card has are refused."""
        return self._asked

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        if size > self._most:
            raise ShimError(f"{self.name}: {size} bytes of shared memory, a card has {self._most}")
        self._asked = size

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *,
        shared_mem: int = 0,
    ) -> None:  # fmt: skip
        """Run every block, one after another.

        Raises:
            ShimError: a wrong launch, a wrong argument, or a block that cannot go on.
        """
        sizes = (*grid, 1, 1)[:3] + (*block, 1, 1)[:3]
        self._started()
        self._check_launch(sizes, shared_mem)
        if len(args) != len(self._parameters):
            raise ShimError(f"{self.name} takes {self._parameters}, got {len(args)} arguments")
        given = [self._c(*pair) for pair in zip(self._parameters, args, strict=True)]
        c_sizes = (ctypes.c_uint * 6)(*sizes)
        with self._lock:
            wrong = self._run(
                c_sizes, ctypes.c_uint(self._order), ctypes.c_ulonglong(shared_mem), *given
            )
        if wrong:
            raise ShimError(f"{self.name}: {wrong.decode()}")

    def _check_launch(self, sizes: tuple[int, ...], shared_mem: int) -> None:
        limits = ((1 << 31) - 1, 65535, 65535, 1024, 1024, 64)
        threads = sizes[3] * sizes[4] * sizes[5]
        if any(not 0 < size <= most for size, most in zip(sizes, limits, strict=True)):
            raise ShimError(f"{self.name}: no card starts grid and block {sizes}")
        if threads > 1024:
            raise ShimError(f"{self.name}: {threads} threads a block, 1024 is CUDA's most")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise ShimError(
                f"{self.name}: {shared_mem} bytes of dynamic shared memory, "
                f"{self.max_dynamic_shared_size_bytes} asked for"
            )

    def _c(self, parameter: str, value: Any) -> Any:
        """Return an argument for ctypes, if it is what the parameter's type says."""
        kind = parameter[: -len(_name_of(parameter))].strip()
        kind = re.sub(r"\b(const|__restrict__)\b", " ", kind).replace(" *", "*")
        kind = " ".join(kind.split()).replace(" *", "*")
        if kind.endswith("*"):
            return self._pointer(parameter, kind.rstrip("* "), kind.count("*"), value)
        wanted = _SCALARS.get(kind)
        if wanted is None:
            raise ShimError(f"{self.name}: parameter `{parameter}` is of a type nobody checks")
        if type(value) is not wanted:
            raise ShimError(f"{self.name}: `{parameter}` got a {type(value).__name__} ({value!r})")
        number: Any = value
        return _C[wanted](number)

    def _pointer(self, parameter: str, kind: str, stars: int, value: Any) -> Any:
        if isinstance(value, np.uintp):
            return ctypes.c_void_p(int(value))
        values = getattr(value, "__rehearsed__", None)
        if values is None:
            raise ShimError(f"{self.name}: `{parameter}` got a {type(value).__name__}")
        if not values.flags.c_contiguous:
            raise ShimError(f"{self.name}: `{parameter}` got an array that is not C-contiguous")
        stored = _STORED.get(kind, "uint64" if stars > 1 else None)
        if stored is not None and values.dtype.name not in stored.split():
            raise ShimError(f"{self.name}: `{parameter}` got {values.dtype} values")
        return ctypes.c_void_p(values.ctypes.data)
