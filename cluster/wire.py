"""How values travel: as pickles whose large buffers are frames of their own, never copied.

Below `INLINE_BYTES` a pickle goes as one field of the message, at half the time of a frame. Whoever
may connect to a Dask cluster can run code in it; these pickles open no new door.

Buffers are held as arrays, which the garbage collector does not look into. When it takes apart a
cycle with a memoryview and a `PickleBuffer` of it, such as an error whose traceback has a frame
that knows both, Python before 3.12.7 ends with a segmentation fault (python/cpython#122306).
"""

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.cluster.internals import beside_message

Bytes = NDArray[np.uint8]

INLINE_BYTES = 64 * 1024
_ALIGNMENT = 16  # of frames that NumPy and Arrow read in place


def pack(value: Any) -> dict[str, Any]:
    """Return the fields of a Dask message that carry a value.

    Raises:
        TypeError: the value does not pickle.
    """
    pieces: list[Bytes] = []

    def is_small(buffer: pickle.PickleBuffer) -> bool:
        """Keep small buffers in the pickle."""
        piece = np.frombuffer(buffer.raw(), np.uint8)
        if piece.nbytes < INLINE_BYTES:
            return True
        pieces.append(piece)
        return False

    head = pickle.dumps(value, protocol=5, buffer_callback=is_small)
    if len(head) >= INLINE_BYTES:
        return {"head": b"", "frames": beside_message([np.frombuffer(head, np.uint8), *pieces])}
    if pieces:
        return {"head": head, "frames": beside_message(pieces)}
    return {"head": head}


def alone(error: Exception) -> Exception:
    """Return an error without what led to it: with Dask that travels too, and need not pickle."""
    error.__cause__ = error.__context__ = error.__traceback__ = None
    return error


def unpack(message: Mapping[str, Any]) -> Any:
    """Return the value that `pack` put into a message."""
    frames: Sequence[Any] = message.get("frames", ())
    head = message["head"]
    if not head:
        head, frames = frames[0], frames[1:]
    return pickle.loads(head, buffers=[_aligned(frame) for frame in frames])


def _aligned(frame: Any) -> Bytes:
    """Return a frame where compiled code can read it; frames come from anywhere in a stream."""
    view = np.frombuffer(frame, np.uint8)
    if view.ctypes.data % _ALIGNMENT == 0:
        return view
    room = np.empty(view.nbytes + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    copy = room[start : start + view.nbytes]
    copy[:] = view
    return copy
