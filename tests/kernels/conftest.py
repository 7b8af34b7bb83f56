"""CUDA sources compiled by g++ with `shim/shim.h`, called through the product's own launch code."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from gpuvec.kernels import device_pairwise, device_select, launch

SHIM = Path(__file__).parent / "shim" / "shim.h"
STORED = {"float32": "float", "float16": "f16", "bfloat16": "bf16", "int8": "signed char",
          "uint8": "u8"}  # fmt: skip
SIGNATURE = re.compile(r'extern "C" __global__ void (\w+)\(([^)]*)\)')


def signatures(source: str) -> dict[str, str]:
    """Return name and parameters of every kernel in a source, macros written out."""
    flat = re.sub(r"\\\s*\n\s*", " ", source)
    plain = dict(SIGNATURE.findall(re.sub(r"#define.*", "", flat)))
    if "DENSE(float" in source:
        for suffix, kind in STORED.items():
            one = f"const float* queries, const {kind}* rows, "
            for metric in ("cosine", "l2", "sqeuclidean", "ip"):
                plain[f"pairwise_{metric}_{suffix}"] = one + "i64 m, i64 n, i64 width, float* out"
            plain[f"paired_{suffix}"] = (
                one + "const i64* query_index, const i64* row_index, i64 pairs, i64 width, "
                "int metric, float* out"
            )
    return plain


def build(folder: Path, file: str, source: str) -> ctypes.CDLL:
    """Compile a source as it is given, with one entry point for each kernel."""
    text = f'#include "{SHIM}"\n{source}\n'
    for name, parameters in signatures(source).items():
        names = ", ".join(part.split()[-1].lstrip("*") for part in parameters.split(","))
        text += (
            f'extern "C" void run_{name}(unsigned gx, unsigned gy, unsigned bx, unsigned by, '
            f"unsigned seed, {parameters}) {{ shim::launch(gx, gy, bx, by, seed, "
            f"[&] {{ {name}({names}); }}); }}\n"
        )
    code, library = folder / f"{file}.cpp", folder / f"{file}.so"
    code.write_text(text)
    command = ["g++", "-std=c++17", "-O0", "-ffp-contract=off", "-w", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", str(library), str(code)], check=True)
    return ctypes.CDLL(str(library))


class ShimKernel:
    """A kernel as `launch.Kernel`, run by the shim on host arrays."""

    def __init__(self, library, name, seed):
        self._run = getattr(library, f"run_{name}")
        self._run.restype = None
        self._seed = seed

    def launch(self, grid, block, *arguments):
        if not all(grid):
            return
        sizes = [ctypes.c_uint(size) for size in (*grid, 1)[:2] + (*block, 1)[:2]]
        self._run(*sizes, ctypes.c_uint(self._seed), *map(self._c, arguments))

    def over(self, count, *arguments):
        self.launch((-(-count // launch.THREADS),), (launch.THREADS,), *arguments)

    @staticmethod
    def _c(value):
        if isinstance(value, np.ndarray):
            assert value.flags.c_contiguous
            return ctypes.c_void_p(value.ctypes.data)
        if isinstance(value, np.uintp):
            return ctypes.c_void_p(int(value))
        return {8: ctypes.c_int64, 4: ctypes.c_int32}[value.itemsize](int(value))


@pytest.fixture(scope="session")
def build_shim():
    """The function `build`; skips where there is no g++."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    return build


@pytest.fixture(scope="session")
def shim_library(tmp_path_factory, build_shim):
    """A function from source file to compiled library."""
    folder = tmp_path_factory.mktemp("shim")
    made = {}

    def library(file):
        if file not in made:
            made[file] = build_shim(folder, file.replace(".", "_"), launch.source_of(file))
        return made[file]

    return library


@pytest.fixture
def use_shim(monkeypatch):
    """A function that makes the device wrappers take kernels of a library, on host arrays."""

    def use(library, order):
        def kernel_of(file, name):
            return ShimKernel(library(file), name, order)

        for module in (device_pairwise, device_select):
            monkeypatch.setattr(module, "kernel_of", kernel_of)
        return kernel_of

    return use


@pytest.fixture(params=[1, 2], ids=["order 1", "order 2"])
def shim(request, shim_library, use_shim):
    """The device wrappers run the sources as they are."""
    return use_shim(shim_library, request.param)
