"""One pool of device memory for CuPy, cuDF, cuVS and FAISS, made before any of them allocates.

With RMM it is the driver's own asynchronous pool, which RMM looks at and does not make: so what the
pool keeps for later can be given back when the card is full, and counts as free when that is
measured. Whoever has set another resource before (a Dask-CUDA worker with options of its own) keeps
it. Without RMM there is CuPy's pool, since then none of the others can be there but FAISS, which
allocates for itself.
"""

import importlib.util

from gpuvec.device.library import cupy_module

_KEPT_BYTES = (1 << 63) - 1  # of the pool, between uses: all


def share_pool() -> None:
    """Let all libraries of this process allocate from one pool of the current card."""
    if importlib.util.find_spec("rmm") is None:
        return
    import rmm
    from rmm.allocators.cupy import rmm_cupy_allocator

    if isinstance(rmm.mr.get_current_device_resource(), rmm.mr.CudaMemoryResource):
        runtime = cupy_module().cuda.runtime
        pool = _drivers_pool()
        runtime.memPoolSetAttribute(pool, runtime.cudaMemPoolAttrReleaseThreshold, _KEPT_BYTES)
        rmm.mr.set_current_device_resource(rmm.mr.CudaAsyncViewMemoryResource(pool))
    cupy_module().cuda.set_allocator(rmm_cupy_allocator)


def free_blocks() -> None:
    """Give blocks that pools keep for later back to the card."""
    cupy = cupy_module()
    cupy.cuda.runtime.deviceSynchronize()
    cupy.get_default_memory_pool().free_all_blocks()
    cupy.get_default_pinned_memory_pool().free_all_blocks()
    if importlib.util.find_spec("rmm") is not None:
        cupy.cuda.runtime.memPoolTrimTo(_drivers_pool(), 0)


def _drivers_pool() -> int:
    """Return the driver's own pool of the current card."""
    runtime = cupy_module().cuda.runtime
    return int(runtime.deviceGetDefaultMemPool(runtime.getDevice()))
