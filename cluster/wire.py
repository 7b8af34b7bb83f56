"""How values travel: as pickles whose large buffers are frames of their own, never copied.

Below `INLINE_BYTES` a pickle goes as one field of the message, at half the time of a frame. Whoever
may connect to a Dask cluster can run code in it; these pickles open no new door.
"""

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpuvec.cluster.internals import beside_message

INLINE_BYTES = 64 * 1024
_ALIGNMENT = 16  # of frames that NumPy and Arrow read in place


def pack(value: Any) -> dict[str, Any]:
    """Return the fields of a Dask message that carry a value.

    Raises:
        TypeError: the value does not pickle.
    """
    pieces: list[memoryview] = []

    def is_small(buffer: pickle.PickleBuffer) -> bool:
        """Keep small buffers in the pickle."""
        raw = buffer.raw()
        if raw.nbytes < INLINE_BYTES:
            return True
        pieces.append(raw)
        return False

    head = pickle.dumps(value, protocol=5, buffer_callback=is_small)
    if len(head) >= INLINE_BYTES:
        return {"head": b"", "frames": beside_message([memoryview(head), *pieces])}
    if pieces:
        return {"head": head, "frames": beside_message(pieces)}
    return {"head": head}


def unpack(message: Mapping[str, Any]) -> Any:
    """Return the value that `pack` put into a message."""
    frames: Sequence[Any] = message.get("frames", ())
    head = message["head"]
    if not head:
        head, frames = frames[0], frames[1:]
    return pickle.loads(head, buffers=[_aligned(frame) for frame in frames])


def _aligned(frame: Any) -> memoryview:
    """Return a frame where compiled code can read it; frames come from anywhere in a stream."""
    view = memoryview(frame).cast("B")
    if np.frombuffer(view, np.uint8).ctypes.data % _ALIGNMENT == 0:
        return view
    room = np.empty(view.nbytes + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    copy = room[start : start + view.nbytes]
    copy[:] = np.frombuffer(view, np.uint8)
    return memoryview(copy.data)
