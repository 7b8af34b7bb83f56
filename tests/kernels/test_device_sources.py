"""CUDA sources compile to machine code for the cards that are meant, without a card."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from gpuvec.kernels import launch
from gpuvec.kernels.launch import source_of

SOURCES = sorted(path.name for path in launch.SOURCES.glob("*.cu"))
ARCHITECTURES = [pytest.param("sm_80", marks=pytest.mark.slow), "sm_90a"]


def nvrtc():
    """Return the CUDA run-time compiler of its wheel, or None."""
    try:
        import nvidia
    except ImportError:
        return None
    folders = [Path(folder) for folder in nvidia.__path__]
    found = [path for folder in folders for path in folder.glob("**/libnvrtc.so.*")]
    if not found:
        return None
    for part in found[0].parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(part))  # the compiler looks for it by name
    return ctypes.CDLL(str(found[0]))


def compile_by_nvrtc(library, source, architecture):
    """Return (status, log) of compiling to machine code."""
    program = ctypes.c_void_p()
    text = source.encode()
    library.nvrtcCreateProgram(ctypes.byref(program), text, b"source.cu", 0, None, None)
    options = [b"-std=c++17", f"--gpu-architecture={architecture}".encode()]
    given = (ctypes.c_char_p * len(options))(*options)
    status = library.nvrtcCompileProgram(program, len(options), given)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcGetCUBINSize(program, ctypes.byref(size))
    return status, log.value.decode(), size.value


@pytest.mark.parametrize("file", SOURCES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sources_compile_to_machine_code(file, architecture, tmp_path):
    library = nvrtc()
    if library is not None:
        status, log, size = compile_by_nvrtc(library, source_of(file), architecture)
        assert status == 0, log
        assert size > 0
        return
    if shutil.which("nvcc") is None:
        pytest.skip("neither the nvidia-cuda-nvrtc wheel nor nvcc")
    source = tmp_path / file
    source.write_text(source_of(file))
    command = ["nvcc", "-std=c++17", f"-arch={architecture}", "-cubin", "-o", "/dev/null"]
    subprocess.run([*command, str(source)], check=True)
