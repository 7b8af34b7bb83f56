"""What of a GPU stack is installed, how far it carries, and what to do for the rest.

Four levels, each of use without the next: CuPy alone searches and filters on the card; cuDF adds
frames that stay there; cuVS or FAISS for GPUs add indexes; Dask-CUDA adds clusters.
"""

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gpuvec.device.arrays import to_device, to_host
from gpuvec.device.detect import Card, Driver, ask_cards
from gpuvec.device.memory import card_memory
from gpuvec.device.residency import device_store

LEVELS = (
    "nothing runs on the card",
    "L1: exact search and most filters run on the card, indexes on the CPU",
    "L2: exact search, filters and frames run on the card, indexes on the CPU",
    "L3: searches, filters and indexes run on the card",
    "L4: searches, filters and indexes run on the card, and clusters with a worker a card",
)
_EXTRA = 'pip install "gpuvec[gpu-cu13]" (driver 580 or later) or "gpuvec[gpu-cu12]"'
_NEEDED = {12: 525, 13: 580}  # drivers, by CUDA

Version = Callable[[str], str | None]  # of an installed distribution; None: there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A library of the stack.

    Attributes:
        name: people call it.
        owners: distributions that bring it; two of them at once overwrite each other.
        purpose: what works with it.
        optional: whether no level needs it.
    """

    name: str
    owners: tuple[str, ...]
    purpose: str
    optional: bool = False


def _cuda(name: str) -> tuple[str, ...]:
    return (f"{name}-cu12", f"{name}-cu13")


PACKAGES = (
    Package(name="CuPy", owners=("cupy-cuda12x", "cupy-cuda13x", "cupy"),
            purpose="arrays and kernels on the card"),
    Package(name="NVRTC", owners=("nvidia-cuda-nvrtc-cu12", "nvidia-cuda-nvrtc"),
            purpose="compiles kernels for the card; the CUDA toolkit has it too", optional=True),
    Package(name="cuDF", owners=_cuda("cudf"), purpose="frames on the card, filters of every kind"),
    Package(name="cuVS", owners=_cuda("cuvs"), purpose="indexes on the card"),
    Package(name="RMM", owners=_cuda("rmm"),
            purpose="one pool of device memory for all libraries", optional=True),
    Package(name="KvikIO", owners=_cuda("kvikio"),
            purpose="files straight to the card", optional=True),
    Package(name="Dask-CUDA", owners=("dask-cuda",), purpose="clusters with a worker a card"),
)  # fmt: skip
FAISS_OWNERS = (
    "faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs",
    "faiss-gpu-cu12", "faiss-gpu-cu12-cuvs", "faiss-gpu-cu13-cuvs",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing looked at: `state` is `ok`, `note` (works, could be better) or `fail`."""

    name: str
    state: str
    text: str
    remedy: str = ""


def installed_version(name: str) -> str | None:
    """Return the version of a distribution; None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def gpu_parts(
    version: Version = installed_version, ask: Callable[[], Driver] = ask_cards
) -> list[Part]:
    """Return what there is of cards and of their libraries; one line where there is nothing.

    Args:
        version: tells what is installed.
        ask: tells the driver and its cards.
    """
    driver = ask()
    there = {package.name: owners_of(package.owners, version) for package in PACKAGES}
    wanted = [there[package.name] for package in PACKAGES if not package.optional]
    if not driver.cards and not any(wanted):
        text = f"{driver.reason}; everything runs on the CPU"
        return [Part(name="gpu", state="ok", text=text)]
    found = [_cards(driver, there)]
    found += [_package(package, there[package.name], version) for package in PACKAGES]
    if driver.cards:
        found.append(_level(level_of(there, version)))
    if driver.cards and there["CuPy"]:
        found.append(try_card())
    return found


def owners_of(names: Sequence[str], version: Version) -> list[str]:
    """Return the distributions that are installed."""
    return [name for name in names if version(name) is not None]


def level_of(there: dict[str, list[str]], version: Version) -> int:
    """Return how far what is installed carries, as an index into `LEVELS`."""
    indexes = bool(there["cuVS"]) or any(map(version, FAISS_OWNERS[1:]))
    steps = (bool(there["CuPy"]), bool(there["cuDF"]), indexes, bool(there["Dask-CUDA"]))
    return steps.index(False) if False in steps else len(steps)


def _cards(driver: Driver, there: dict[str, list[str]]) -> Part:
    if not driver.cards:
        remedy = "install or repair the driver (`nvidia-smi` should list the card)"
        text = f"{driver.reason}, though packages for GPUs are installed; all runs on the CPU"
        return Part(name="gpu", state="note", text=text, remedy=remedy)
    cards = "; ".join(_card_text(card) for card in driver.cards)
    text = f"{cards}; driver for CUDA {driver.cuda[0]}.{driver.cuda[1]}"
    wanted = {_cuda_of(owner) for owners in there.values() for owner in owners} - {0}
    if len(wanted) > 1:
        return Part(
            name="gpu", state="note", text=f"{text}; packages for CUDA 12 and 13 are mixed",
            remedy="install one extra in a fresh environment: gpu-cu12 or gpu-cu13",
        )  # fmt: skip
    if wanted and max(wanted) > driver.cuda[0]:
        need = max(wanted)
        remedy = f"update the driver to {_NEEDED[need]} or later, or install gpuvec[gpu-cu12]"
        text += f", but packages are for CUDA {need}"
        return Part(name="gpu", state="fail", text=text, remedy=remedy)
    return Part(name="gpu", state="ok", text=text)


def _card_text(card: Card) -> str:
    text = card.name
    if card.size_bytes:
        text += f", {card.size_bytes / 2**30:.1f} GiB"
    return f"{text}, sm_{card.compute}" if card.compute else text


def _cuda_of(owner: str) -> int:
    """Return the CUDA release that a distribution is for; 0 where its name does not tell."""
    return next((n for n in _NEEDED if owner.endswith((f"-cu{n}", f"-cuda{n}x"))), 0)


def _package(package: Package, owners: list[str], version: Version) -> Part:
    if len(owners) > 1:
        remedy = f"they overwrite each other: pip uninstall {' '.join(owners)}, then install one"
        text = f"{' and '.join(owners)} are installed"
        return Part(name=package.name, state="fail", text=text, remedy=remedy)
    if owners:
        text = f"{owners[0]} {version(owners[0])}: {package.purpose}"
        return Part(name=package.name, state="ok", text=text)
    state = "ok" if package.optional else "note"
    text = f"not installed: {package.purpose}"
    return Part(
        name=package.name, state=state, text=text, remedy="" if package.optional else _EXTRA
    )


def try_card() -> Part:
    """Copy something to the card and back, and tell the memory that gpuvec may take."""
    try:
        sent = np.arange(1024, dtype=np.float32)
        came = to_host(to_device(sent))
        memory, limit = card_memory(), device_store().budget.limit_bytes
    except Exception as error:  # five libraries have errors of their own: any means that it fails
        remedy = "see the message; CuPy must be for the CUDA that the driver runs"
        text = f"cannot be used: {type(error).__name__}: {error}"
        return Part(name="gpu memory", state="fail", text=text, remedy=remedy)
    if not np.array_equal(came, sent):
        return Part(name="gpu memory", state="fail", text="gives other numbers than it was sent")
    sizes = [f"{size / 2**30:.1f}" for size in (memory.free, memory.total, limit)]
    text = f"{sizes[0]} of {sizes[1]} GiB free; gpuvec takes {sizes[2]} GiB at most"
    return Part(name="gpu memory", state="ok", text=f"{text} (device.memory_limit)")


def _level(level: int) -> Part:
    if level == len(LEVELS) - 1:
        return Part(name="gpu level", state="ok", text=LEVELS[level])
    missing = ("CuPy", "cuDF", "cuVS or FAISS for GPUs", "Dask-CUDA")[level]
    remedy = f"for L{level + 1} install {missing}: {_EXTRA}"
    return Part(name="gpu level", state="note", text=LEVELS[level], remedy=remedy)
