"""FAISS on a GPU: lists that lie in FAISS's CPU format, copied to the card.

Traps that end here. Only the build with cuVS looks at masks; the other takes them and answers as if
there were none. Clones use cuVS only if told to. The scratch of FAISS's resources (temporary
memory, pinned memory, a stream of its own) is one per process and device, serves one call at a
time, and must follow the stream that CuPy uses, or answers are read before they are there.
"""

import importlib.util
import threading
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from gpuvec.device.arrays import array_namespace, to_host
from gpuvec.device.library import cupy_module, out_of_memory
from gpuvec.device.residency import device_store
from gpuvec.errors import no_engine_for_index
from gpuvec.index.device_engine import Finder, Nodes
from gpuvec.index.device_space import unit_rows
from gpuvec.index.faiss_codes import Codec
from gpuvec.index.faiss_ivfpq import GPU_DIMS
from gpuvec.index.faiss_library import faiss_library
from gpuvec.kernels.bitset import BitSet
from gpuvec.types import Array

_SCRATCH_BYTES, _PINNED_BYTES = 512 << 20, 64 << 20
_MOST, _MOST_WITH_CUVS = 2048, 16384  # candidates, and lists that are looked at
_SLACK = 1.25  # lists on the card are longer than their rows


@cache
def has_faiss_gpu() -> bool:
    """Return whether the FAISS that is installed was built for GPUs."""
    if importlib.util.find_spec("faiss") is None:
        return False
    return hasattr(faiss_library(), "StandardGpuResources")


@cache
def sees_masks() -> bool:
    """Return whether FAISS looks at masks on a GPU: in its build with cuVS only."""
    faiss = faiss_library()
    return "NVIDIA_CUVS" in faiss.get_compile_options().split()


class _Resources:
    """FAISS's resources of a device, for one call at a time; their scratch is in the budget."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        what = "the scratch of FAISS's resources"
        device_store().budget.take("scratch", _SCRATCH_BYTES, what=what)  # for good
        self.held = faiss_library().StandardGpuResources()
        self.held.setTempMemory(_SCRATCH_BYTES)
        self.held.setPinnedMemory(_PINNED_BYTES)

    def follow(self, device: int) -> None:
        """Order work with CuPy's current stream."""
        stream = int(cupy_module().cuda.get_current_stream().ptr)
        faiss = faiss_library()
        self.held.setDefaultStream(device, faiss.cast_integer_to_cudastream_t(stream))


@cache
def _resources(device: int) -> _Resources:
    del device
    return _Resources()


def why_not(lists: Any) -> str:
    """Return why lists cannot be copied to a card; nothing if they can."""
    faiss = faiss_library()
    if isinstance(lists, faiss.IndexIVFFlat):
        return ""
    if isinstance(lists, faiss.IndexIVFScalarQuantizer):
        scalar = faiss.ScalarQuantizer
        kinds = (scalar.QT_fp16, scalar.QT_8bit)
        return "" if lists.sq.qtype in kinds else "FAISS has no such values on a GPU"
    if isinstance(lists, faiss.IndexIVFPQ):
        if sees_masks():
            return ""
        if lists.pq.nbits != 8 or lists.pq.M not in GPU_DIMS:
            shown = ", ".join(map(str, GPU_DIMS))
            return f"FAISS without cuVS takes codes of 8 bits, and of them {shown} a row"
        return ""
    return f"FAISS has no {type(lists).__name__} on a GPU"


class FaissOnGpu:
    """See `Engine`.

    Args:
        kind: of the index, for messages.
        lists: returns FAISS's index on the CPU, called where a finder is made.
        codec: how it sees queries.
        row_bytes: of a row's codes.
    """

    name = "faiss"
    by_rows = True
    least_nodes = 1024

    def __init__(self, kind: str, lists: Callable[[], Any], codec: Codec, row_bytes: int) -> None:
        self._kind = kind
        self._lists = lists
        self._codec = codec
        self._row_bytes = row_bytes
        self.sees_masks = sees_masks()
        self.most = _MOST_WITH_CUVS if self.sees_masks else _MOST

    def size_bytes(self, nodes: int, width: int) -> int:
        """See `Engine.size_bytes`."""
        n_lists = int(4 * nodes**0.5) + 1
        return int(_SLACK * nodes * (self._row_bytes + 8)) + n_lists * 8 * width

    def making_bytes(self, nodes: int, width: int) -> int:
        """See `Engine.making_bytes`: lists go up through FAISS's own scratch."""
        del nodes, width
        return 0

    def make(self, nodes: Nodes) -> Finder:
        """See `Engine.make`."""
        del nodes  # lists know their rows
        faiss, device = faiss_library(), int(cupy_module().cuda.Device().id)
        options = faiss.GpuClonerOptions()
        options.use_cuvs = sees_masks()
        options.indicesOptions = faiss.INDICES_64_BIT
        resources = _resources(device)
        with resources.lock:
            resources.follow(device)
            try:
                index = faiss.index_cpu_to_gpu(resources.held, device, self._lists(), options)
            except RuntimeError as error:
                if out_of_memory(error):
                    raise
                raise no_engine_for_index(self._kind, f"FAISS says {error}") from error
        return _OnGpu(index, device, self._codec)


class _OnGpu:
    """See `Finder`."""

    def __init__(self, index: Any, device: int, codec: Codec) -> None:
        self._index = index
        self._device = device
        self._codec = codec

    def find(
        self, queries: Array, count: int, knobs: Mapping[str, float], keep: BitSet | None
    ) -> Array:
        """See `Finder.find`."""
        faiss, xp = faiss_library(), array_namespace(queries)
        seen = self._seen(queries)
        rows = xp.full((len(seen), count), -1, xp.int64)
        distances = xp.empty((len(seen), count), xp.float32)
        params = self._params(knobs, keep)
        resources = _resources(self._device)
        with resources.lock:
            resources.follow(self._device)
            self._index.search_c(
                len(seen),
                faiss.cast_integer_to_float_ptr(seen.data.ptr),
                count,
                faiss.cast_integer_to_float_ptr(distances.data.ptr),
                faiss.cast_integer_to_idx_t_ptr(rows.data.ptr),
                params,
            )
        return rows

    def _seen(self, queries: Array) -> Array:
        """Return queries as lists see them: `Codec.queries`, on the device."""
        xp = array_namespace(queries)
        found = unit_rows(queries) if self._codec.space.product else queries
        more = self._codec.seen_width - self._codec.width
        found = xp.pad(found, ((0, 0), (0, more))) if more else found
        return xp.ascontiguousarray(found.astype(xp.float32, copy=False))

    def _params(self, knobs: Mapping[str, float], keep: BitSet | None) -> Any:
        faiss = faiss_library()
        chosen: dict[str, Any] = {}
        if keep is not None:
            bits = to_host(keep.words, "bits").view(np.uint8)
            chosen["sel"] = faiss.IDSelectorBitmap(bits)
        most = _MOST_WITH_CUVS if sees_masks() else _MOST
        probes = min(int(knobs["n_probes"]), int(self._index.nlist), most)
        return faiss.SearchParametersIVF(nprobe=probes, **chosen)
