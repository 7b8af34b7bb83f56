"""One pool of device memory for CuPy, cuDF, cuVS and FAISS, made before any of them allocates.

With RMM it is the driver's own asynchronous pool; whoever has set another resource before (a
Dask-CUDA worker with options of its own) keeps it. Without RMM there is CuPy's pool, since then
none of the others can be there but FAISS, which allocates for itself.
"""

import importlib.util

from gpuvec.device.library import cupy_module


def share_pool() -> None:
    """Let all libraries of this process allocate from one pool of the current card."""
    if importlib.util.find_spec("rmm") is None:
        return
    import rmm
    from rmm.allocators.cupy import rmm_cupy_allocator

    if isinstance(rmm.mr.get_current_device_resource(), rmm.mr.CudaMemoryResource):
        rmm.mr.set_current_device_resource(rmm.mr.CudaAsyncMemoryResource())
    cupy_module().cuda.set_allocator(rmm_cupy_allocator)


def free_blocks() -> None:
    """Give blocks that pools keep for later back to the card; RMM's pool does so by itself."""
    cupy = cupy_module()
    cupy.cuda.runtime.deviceSynchronize()
    cupy.get_default_memory_pool().free_all_blocks()
    cupy.get_default_pinned_memory_pool().free_all_blocks()
