"""What a card can do at best: its copies and matrix products, measured in the run that uses them.

All figures are medians over rounds after a warm-up, the device synchronised at both ends. A product
that no library at hand can time (8-bit and bfloat16 want PyTorch) is left out and named.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

ROUNDS = 7


def seconds(work: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Return the median wall time of a device step, after one call that warms up."""
    import cupy

    work()
    cupy.cuda.runtime.deviceSynchronize()
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        cupy.cuda.runtime.deviceSynchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def ceilings(size: int = 8192, copied: int = 1 << 30) -> dict[str, Any]:
    """Return the card's measured ceilings.

    Args:
        size: rows and columns of the matrices that are multiplied.
        copied: bytes of each copy.

    Returns:
        "copy GB/s" (read and written bytes of a copy on the card), "pinned to card GB/s",
        "card to pinned GB/s", "products TFLOP/s" by type, and "left out": what could not be timed.
    """
    products, left_out = _products(size)
    return {**_copies(copied), "products TFLOP/s": products, "left out": left_out}


def _copies(size: int) -> dict[str, float]:
    import cupy
    import numpy as np

    source = cupy.zeros(size, cupy.uint8)
    target = cupy.empty_like(source)
    pinned = np.frombuffer(cupy.cuda.alloc_pinned_memory(size), np.uint8, size)
    pinned[:] = 1
    return {
        "copy GB/s": 2 * size / seconds(lambda: cupy.copyto(target, source)) / 1e9,
        "pinned to card GB/s": size / seconds(lambda: target.set(pinned)) / 1e9,
        "card to pinned GB/s": size / seconds(lambda: target.get(out=pinned)) / 1e9,
    }


def _products(size: int) -> tuple[dict[str, float], list[str]]:
    import cupy
    import numpy as np

    operations = 2 * size**3 / 1e12
    found: dict[str, float] = {}
    made = np.random.default_rng(0).random((size, size), np.float32) - 0.5  # zeros would be faster
    for name in ("float32", "float16"):
        a = cupy.asarray(made.astype(name))
        out = cupy.empty_like(a)
        found[name] = operations / seconds(lambda a=a, out=out: cupy.matmul(a, a, out=out))
    try:
        import torch
    except ImportError:
        return found, ["bfloat16 and int8 products: PyTorch is not installed"]
    if not torch.cuda.is_available():
        return found, ["bfloat16 and int8 products: PyTorch sees no card"]
    b = torch.from_numpy(made).cuda()
    half, codes = b.to(torch.bfloat16), (b * 200).to(torch.int8)
    found["bfloat16"] = operations / seconds(lambda: torch.matmul(half, half))
    found["int8"] = operations / seconds(lambda: torch._int_mm(codes, codes.t()))
    return found, []
