"""`gpuvec doctor`: what works on this machine, and what to do about the rest."""

import importlib.metadata
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpuvec import __version__
from gpuvec.device.stack import FAISS_OWNERS, gpu_parts, installed_version, owners_of
from gpuvec.storage.system import HOST

INT8_FEATURES = ("avx512vnni", "avxvnni", "dotprod")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at: `state` is `ok`, `note` (works, could be better) or `fail`."""

    part: str
    state: str
    text: str
    remedy: str = ""

    @property
    def is_failure(self) -> bool:
        """Whether gpuvec cannot do its work because of this."""
        return self.state == "fail"

    @property
    def mark(self) -> str:
        """A sign for the terminal."""
        return {"ok": "[green]ok  [/]", "note": "[yellow]note[/]", "fail": "[red]FAIL[/]"}[
            self.state
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the finding as a JSON object."""
        return asdict(self)


def examine(folder: Path) -> list[Finding]:
    """Look at everything gpuvec depends on; `folder` names the disk to try."""
    return [_python(), _processor(), _memory(), *_gpu(), _faiss(), _disk(folder)]


def _python() -> Finding:
    arrow = importlib.metadata.version("pyarrow")
    python = platform.python_version()
    text = f"gpuvec {__version__}, Python {python}, pyarrow {arrow}, {sys.platform}"
    return Finding(part="python", state="ok", text=text)


def _processor() -> Finding:
    import llvmlite.binding as llvm

    has = llvm.get_host_cpu_features()
    found = [name for name in INT8_FEATURES if has.get(name)]
    text = f"{len(os.sched_getaffinity(0))} cores of {llvm.get_host_cpu_name()}"
    if found:
        return Finding(part="cpu", state="ok", text=f"{text}, int8 dot products ({found[0]})")
    remedy = "batch search runs in float32, at about a quarter of the speed"
    return Finding(part="cpu", state="note", text=f"{text}, no int8 dot products", remedy=remedy)


def _memory() -> Finding:
    from gpuvec.device.memory import host_memory

    memory = host_memory()
    text = f"{memory.free / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    if memory.free < 2**30:
        return Finding(
            part="memory", state="note", text=text, remedy="close something, or set memory_limit"
        )
    return Finding(part="memory", state="ok", text=text)


def _gpu() -> list[Finding]:
    return [
        Finding(part=part.name, state=part.state, text=part.text, remedy=part.remedy)
        for part in gpu_parts()
    ]


def _faiss() -> Finding:
    owners = owners_of(FAISS_OWNERS, installed_version)
    if len(owners) > 1:
        remedy = f"they overwrite each other: pip uninstall {' '.join(owners)}, then install one"
        return Finding(
            part="faiss", state="fail", text=f"{' and '.join(owners)} are installed", remedy=remedy
        )
    if not owners:
        remedy = 'pip install "gpuvec[cpu]"; exact search does not need it'
        return Finding(part="faiss", state="note", text="not installed", remedy=remedy)
    return Finding(part="faiss", state="ok", text=f"{owners[0]} {installed_version(owners[0])}")


def _disk(folder: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(os.urandom(2**20))
            file.flush()
            start = time.perf_counter()
            HOST.fdatasync(file.fileno())
            synced_ms = (time.perf_counter() - start) * 1e3
    except OSError as error:
        remedy = "name a folder that can be written to: gpuvec doctor PATH"
        return Finding(part="disk", state="fail", text=f"{folder}: {error.strerror}", remedy=remedy)
    free = os.statvfs(folder)
    text = f"{folder.resolve()}: {free.f_bavail * free.f_frsize / 2**30:.0f} GiB free, "
    return Finding(part="disk", state="ok", text=text + f"1 MiB durable in {synced_ms:.1f} ms")
