"""Work queues of the GPU; on the host there are none, and the same code runs without."""

from collections.abc import Iterator
from contextlib import contextmanager

from gpuvec.device.arrays import array_namespace
from gpuvec.types import Array


@contextmanager
def stream(like: Array) -> Iterator[None]:
    """Run what is in the block on a stream of its own, and wait for it at the end.

    Args:
        like: an array of the device to work on; for a host array the block just runs.
    """
    xp = array_namespace(like)
    if xp.__name__ == "numpy":
        yield
        return
    with like.device, xp.cuda.Stream(non_blocking=True) as own:
        own.wait_event(xp.cuda.Stream.null.record())
        try:
            yield
        finally:
            own.synchronize()


def wait_for(*arrays: Array) -> None:
    """Return when the arrays hold their values: at once on the host, after a sync on a GPU."""
    for x in arrays:
        xp = array_namespace(x)
        if xp.__name__ != "numpy":
            with x.device:
                xp.cuda.get_current_stream().synchronize()
