"""The one place where arrays are copied between host and device, and counted by what for."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec import telemetry
from gpuvec.device.library import cupy_module, is_bfloat16
from gpuvec.types import Array

PURPOSES = ("queries", "results", "vectors", "scalars", "bits", "index")
_STAGE_BYTES = 8 << 20  # of one of the two pinned buffers that large copies go through
UP, DOWN = "to device", "to host"


def note(direction: str, purpose: str, size_bytes: int) -> None:
    """Count a copy that somebody else makes."""
    telemetry.DEVICE_COPIES.add(1, direction, purpose)
    telemetry.DEVICE_COPY_BYTES.add(size_bytes, direction, purpose)


def copied() -> dict[tuple[str, str], int]:
    """Return the bytes copied so far, by direction (`UP`, `DOWN`) and purpose."""
    return {
        (reading.labels[0], reading.labels[1]): int(reading.value)
        for reading in telemetry.DEVICE_COPY_BYTES.read()
    }


def upload(host: NDArray[Any], purpose: str) -> Array:
    """Return a copy of a host array on the current device.

    Args:
        host: any shape and strides; bfloat16 arrives as its uint16 bits.
        purpose: one of `PURPOSES`.

    Cost: small arrays are copied at once; large ones through two pinned buffers, so that reading
    host memory (or a mapped file) and the bus work at the same time.
    """
    cupy = cupy_module()
    plain = host.view(np.uint16) if is_bfloat16(host) else host
    note(UP, purpose, plain.nbytes)
    if plain.nbytes <= _STAGE_BYTES or not plain.ndim:
        return cupy.asarray(plain)
    out = cupy.empty(plain.shape, plain.dtype)
    rows = max(1, _STAGE_BYTES // max(1, plain.nbytes // len(plain)))
    stage = Stage(rows * (plain.nbytes // len(plain)))
    stream = cupy.cuda.get_current_stream()
    for start in range(0, len(plain), rows):
        stage.copy(plain[start : start + rows], out[start : start + rows], stream)
    stage.finish()
    return out


def download(device: Array, purpose: str) -> NDArray[Any]:
    """Return a copy of a device array in host memory, once it is computed."""
    note(DOWN, purpose, device.nbytes)
    host: NDArray[Any] = device.get()
    return host


class Stage:
    """Two pinned buffers that copies go through in turn. Used by one thread.

    Args:
        size_bytes: of each; no single copy may be larger.
    """

    def __init__(self, size_bytes: int) -> None:
        cupy = cupy_module()
        self._buffers = [cupy.cuda.alloc_pinned_memory(max(1, size_bytes)) for _ in range(2)]
        self._sent: list[Any] = [None, None]  # events
        self._turn = 0

    def copy(self, host: NDArray[Any], out: Array, stream: Any) -> Any:
        """Fill a buffer from host memory, and begin to copy it to the device.

        Args:
            host: no bfloat16.
            out: C-contiguous, of the same shape and dtype.
            stream: on which it is copied.

        Returns:
            The event after the copy.
        """
        turn = self._turn
        self._turn = 1 - turn
        if self._sent[turn] is not None:
            self._sent[turn].synchronize()  # the copy of the time before last has left the buffer
        flat = np.frombuffer(self._buffers[turn], host.dtype, host.size)
        np.copyto(flat.reshape(host.shape), host)
        out.set(flat.reshape(host.shape), stream=stream)
        event = cupy_module().cuda.Event(disable_timing=True)
        event.record(stream)
        self._sent[turn] = event
        return event

    def finish(self) -> None:
        """Wait until the buffers may be let go."""
        for event in self._sent:
            if event is not None:
                event.synchronize()


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows `start` to `stop` on the device, until the next tile is asked for."""

    start: int
    stop: int
    values: Array


def stream_rows(host: NDArray[Any], rows: int, purpose: str) -> Iterator[Tile]:
    """Yield all rows of a host array in tiles, the next on its way while one is used.

    What is done with a tile must be begun, on the current stream, before the next is asked for.

    Args:
        host: (n, ...), no bfloat16.
        rows: of a tile. Two tiles lie on the device at a time.
        purpose: one of `PURPOSES`.
    """
    if not len(host):
        return
    cupy = cupy_module()
    rows = min(rows, len(host))
    buffers = [cupy.empty((rows, *host.shape[1:]), host.dtype) for _ in range(2)]
    compute, copy = cupy.cuda.get_current_stream(), cupy.cuda.Stream(non_blocking=True)
    stage = Stage(buffers[0].nbytes)
    sent: list[Any] = [None, None]
    begun = cupy.cuda.Event(disable_timing=True)

    def send(number: int) -> None:
        """Begin to copy a tile, once the tile that was in its buffer is used up."""
        start = number * rows
        part = host[start : start + rows]
        used = cupy.cuda.Event(disable_timing=True)
        used.record(compute)
        copy.wait_event(used)
        sent[number % 2] = stage.copy(part, buffers[number % 2][: len(part)], copy)
        note(UP, purpose, part.nbytes)

    begun.record(compute)  # the buffers' memory may still be in use by work before
    copy.wait_event(begun)
    count = -(-len(host) // rows)
    try:
        send(0)
        for number in range(count):
            if number + 1 < count:
                send(number + 1)
            compute.wait_event(sent[number % 2])
            start = number * rows
            stop = min(len(host), start + rows)
            yield Tile(start, stop, buffers[number % 2][: stop - start])
        telemetry.TILE_SPLITS.add(count - 1, "rows")
    finally:
        stage.finish()
