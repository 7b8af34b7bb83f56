"""How values travel: whole, uncopied where large, and so that collecting them ends no process."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from gpuvec.cluster.wire import INLINE_BYTES, pack, unpack

CYCLES = """
import gc
import numpy as np
from gpuvec.cluster.wire import pack, unpack

def fails(value):
    fields = pack(value)
    try:
        if "frames" in fields:
            unpack({"head": fields["head"], "frames": [bytes(b) for b in fields["frames"].data]})
        raise ValueError
    except ValueError as error:
        kept = error  # a cycle: the error, its traceback, this frame

VALUES = [np.zeros(100_000)], bytearray(100_000), "x" * 200_000, np.zeros((300, 300), order="F")
for value in VALUES:
    for _ in range(5):
        fails(value)
    gc.collect()
print("collected")
"""


@pytest.mark.parametrize(
    "value",
    [
        np.arange(INLINE_BYTES),
        np.asfortranarray(np.arange(90_000.0).reshape(300, 300)),
        np.zeros(0),
    ],
    ids=["large", "by columns", "empty"],
)
def test_arrays_arrive_as_they_left(value):
    fields = pack({"value": value, "words": pa.array(["a", None])})
    frames = [bytes(frame) for frame in fields["frames"].data] if "frames" in fields else []
    found = unpack({"head": fields["head"], "frames": frames})
    np.testing.assert_array_equal(found["value"], value)
    assert found["words"].to_pylist() == ["a", None]


def test_errors_whose_frames_know_messages_are_collected():
    done = subprocess.run(
        [sys.executable, "-c", CYCLES], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "collected\n", (done.returncode, done.stderr)
