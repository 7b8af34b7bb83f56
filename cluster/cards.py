"""Workers and the cards they use: one worker a card, by Dask-CUDA; several a card only for tests.

Dask-CUDA gives each worker a card, the cores beside it, and one pool of device memory for all
libraries. Its own spilling of device memory is off: it would see nothing
of what searches hold, which `gpuvec.device.budget` books. Answers are merged by gpuvec over TCP, so
there is no need of NCCL.
"""

import importlib.util
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gpuvec.cluster.grace_worker import GraceNanny, GraceWorker
from gpuvec.device.budget import CARD_SHARE
from gpuvec.settings import config

VISIBLE = "CUDA_VISIBLE_DEVICES"
LIMIT = "GPUVEC_DEVICE__MEMORY_LIMIT"
_IMPORTED = ("cupy", "rmm", "cudf", "cuvs")  # by workers as they start: they take seconds


def visible_cards() -> list[str]:
    """Return the cards that workers may use, as `CUDA_VISIBLE_DEVICES` names them.

    Asks NVML, which leaves no trace of CUDA in a process that will start others. A card that is
    named twice is there for two workers.
    """
    if importlib.util.find_spec("dask_cuda") is None or importlib.util.find_spec("pynvml") is None:
        return []
    import pynvml

    try:
        pynvml.nvmlInit()
        count = int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return []
    return named_cards(os.environ.get(VISIBLE), count)


def named_cards(visible: str | None, count: int) -> list[str]:
    """Return the cards of a value of `CUDA_VISIBLE_DEVICES` on a machine that has `count`.

    As CUDA reads it: numbers, or names such as `GPU-8a3f…`; the first that there is not ends it.
    """
    if visible is None:
        return [str(number) for number in range(count)]
    found: list[str] = []
    for name in map(str.strip, visible.split(",")):
        is_number = name.lstrip("-").isdigit()
        if not name or (is_number and not 0 <= int(name) < count):
            break
        found.append(name)
    return found if count else []


def cluster_of(
    cards: Sequence[str], workers: int | None, threads: int | None
) -> tuple[Any, dict[str, Any]]:
    """Return the class of a cluster of workers with cards, and its options.

    Args:
        cards: at least one.
        workers: None: one a card.
        threads: of Dask in each worker; None: 1.
    """
    count = workers or len(cards)
    options: dict[str, Any] = {"n_workers": count, "threads_per_worker": threads or 1}
    if count <= len(set(cards)):
        from dask_cuda import LocalCUDACluster

        return LocalCUDACluster, options | cuda_options(sorted(set(cards), key=cards.index))
    from distributed import LocalCluster

    shared = {"worker_class": CardNanny, "processes": True, "cards": tuple(cards)}
    return LocalCluster, options | shared | {"limits": _limits(cards, count)}


def cuda_options(cards: Sequence[str]) -> dict[str, Any]:
    """Return what `LocalCUDACluster` is told."""
    found: dict[str, Any] = {
        VISIBLE: ",".join(cards),
        "worker_class": GraceWorker,
        "log_spilling": False,  # there is none, and only workers of Dask-CUDA's own can log it
        "data": dict,  # results of tasks, which no memory manager moves
        "device_memory_limit": None,
        "protocol": "tcp",
        "pre_import": [name for name in _IMPORTED if importlib.util.find_spec(name) is not None],
    }
    if importlib.util.find_spec("rmm") is not None:
        found |= {"rmm_async": True, "rmm_allocator_external_lib_list": ["cupy"]}
    return found


def worker_options() -> list[str]:
    """Return the same for Dask-CUDA's command, which starts a worker for each card."""
    found = ["--device-memory-limit", "0"]
    names = [name for name in _IMPORTED if importlib.util.find_spec(name) is not None]
    if names:
        found += ["--pre-import", ",".join(names)]
    if "rmm" in names:
        found += ["--rmm-async", "--set-rmm-allocator-for-libs", "cupy"]
    return found


def _limits(cards: Sequence[str], workers: int) -> tuple[float, ...]:
    """Return the budget of each worker: those of one card share it."""
    used = [cards[number % len(cards)] for number in range(workers)]
    sharing, limit = Counter(used), config["device.memory_limit"]
    if isinstance(limit, int):
        return tuple(limit // sharing[card] for card in used)
    return tuple((limit or CARD_SHARE) / sharing[card] for card in used)


class CardNanny(GraceNanny):
    """A nanny whose worker has a card, perhaps with others.

    Args:
        cards: of all workers, in turn.
        limits: of device memory, of each worker.
        options: of `distributed.Nanny`; `name` is the worker's number.
    """

    def __init__(
        self, *args: Any, cards: Sequence[str], limits: Sequence[float], **options: Any
    ) -> None:
        number = int(options["name"])
        own: Mapping[str, str] = {
            VISIBLE: cards[number % len(cards)],
            LIMIT: str(limits[number % len(limits)]),
        }
        super().__init__(*args, **options | {"env": {**(options.get("env") or {}), **own}})
