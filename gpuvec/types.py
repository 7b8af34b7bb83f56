"""The words every floor shares: identifiers, timestamps, metrics, states."""

from enum import StrEnum
from typing import Any, NewType

import numpy as np
from numpy.typing import NDArray

SegmentId = NewType("SegmentId", str)  # a ULID, minted by the writer, never reused
NodeId = NewType("NodeId", str)
ChannelName = NewType("ChannelName", str)  # "s000"
RequestId = NewType("RequestId", str)  # 32 hex digits; a retry with it returns the first answer

# A hybrid timestamp: physical milliseconds << 18 | logical counter (see `gpuvec.clock`).
# The commit timestamp of a write is also the version that it made.
Timestamp = int
Version = int

Array = Any  # a NumPy or CuPy array; `gpuvec.device.arrays.array_namespace` tells which
RowMask = NDArray[np.bool_]  # (rows,), True = keep


class Metric(StrEnum):
    """How near two vectors are. Distances are smaller for nearer vectors, whatever the metric."""

    COSINE = "cosine"  # 1 - cos; a zero vector is at distance 1 of everything
    L2 = "l2"  # Euclidean
    SQEUCLIDEAN = "sqeuclidean"
    IP = "ip"  # negated inner product
    HAMMING = "hamming"  # differing bits
    JACCARD = "jaccard"  # 1 - |a and b| / |a or b|; two empty sets are at distance 0


class SegmentState(StrEnum):
    """The life of a segment, in order."""

    GROWING = "growing"
    SEALED = "sealed"
    FLUSHED = "flushed"
    INDEXED = "indexed"  # has every index its collection asks for
    DROPPED = "dropped"
