"""CUDA sources compiled to machine code for cards that are not there, by the run-time compiler.

NVRTC comes as a wheel (`nvidia-cuda-nvrtc`), needs no driver, and says what each kernel takes.
"""

import ctypes
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gpuvec.kernels.launch import OPTIONS, source_of

_ENTRY = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
    r"(\d+) bytes spill loads.*?Used (\d+) registers([^\n]*)",
    re.DOTALL,
)
CUPYS = ("-ftz=true",)  # CuPy adds it to the options of every source (cupy/cuda/compiler.py)
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one kernel takes on a card.

    Attributes:
        registers: of a thread.
        shared_bytes: of a block, static.
        stack_bytes: of a thread, in slow memory.
        spilled_bytes: of a thread, written for want of registers.
    """

    registers: int
    shared_bytes: int
    stack_bytes: int
    spilled_bytes: int


@cache
def library() -> Any:
    """Return the compiler, or None where its wheel is not installed."""
    try:
        import nvidia
    except ImportError:
        return None
    found = [path for folder in nvidia.__path__ for path in Path(folder).glob("**/libnvrtc.so.*")]
    if not found:
        return None
    for part in found[0].parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(part))  # the compiler looks for it by name
    return ctypes.CDLL(str(found[0]))


@cache
def resources(file: str, architecture: str) -> dict[str, Resources]:
    """Compile a source for a card.

    Args:
        file: beside `gpuvec.kernels.launch`.
        architecture: such as "sm_90a".

    Returns:
        What each of its kernels takes.

    Raises:
        AssertionError: it does not compile; the text is the compiler's.
    """
    log, _ = _compiled(file, architecture)
    return {
        name: Resources(
            registers=int(registers),
            shared_bytes=int(found[1]) if (found := _SHARED.search(rest)) else 0,
            stack_bytes=int(stack),
            spilled_bytes=int(stored) + int(loaded),
        )
        for name, stack, stored, loaded, registers, rest in _ENTRY.findall(log)
    }


def ptx(file: str, architecture: str) -> str:
    """Return a source in the card's assembly language; see `resources`."""
    return _compiled(file, architecture)[1]


@cache
def _compiled(file: str, architecture: str) -> tuple[str, str]:
    """Return what the compiler says, and the assembly that it made."""
    compiler, program = library(), ctypes.c_void_p()
    text = source_of(file).encode()
    compiler.nvrtcCreateProgram(ctypes.byref(program), text, file.encode(), 0, None, None)
    options = [*OPTIONS, *CUPYS, f"--gpu-architecture={architecture}", "--ptxas-options=-v"]
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    status = compiler.nvrtcCompileProgram(program, len(options), given)
    log = _text(compiler.nvrtcGetProgramLogSize, compiler.nvrtcGetProgramLog, program)
    found = _text(compiler.nvrtcGetPTXSize, compiler.nvrtcGetPTX, program)
    compiler.nvrtcDestroyProgram(ctypes.byref(program))
    if status:
        raise AssertionError(f"{file} for {architecture}: {log}")
    return log, found


def _text(size_of: Any, get: Any, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    found = ctypes.create_string_buffer(max(1, size.value))
    if size.value:
        get(program, found)
    return found.value.decode()
