"""Writes the signatures of what gpuvec calls of RMM, KvikIO and Dask-CUDA.

`PYTHON tests/device/record_memory.py`, with a PYTHON that has them; no card is needed. The answer
goes beside this file, under the versions. Compiled functions tell their parameters themselves.
"""

import importlib
import importlib.metadata
import inspect
import json
from pathlib import Path

FILE = Path(__file__).with_name("memory_signatures.json")
CALLED = (
    "dask_cuda:LocalCUDACluster.__init__",
    "kvikio:CuFile.__init__", "kvikio:CuFile.pread", "kvikio.cufile:IOFuture.get",
    "kvikio.defaults:get", "kvikio.defaults:set",
    "rmm.mr:CudaAsyncViewMemoryResource", "rmm.mr:CudaMemoryResource",
    "rmm.mr:get_current_device_resource", "rmm.mr:set_current_device_resource",
    "rmm.allocators.cupy:rmm_cupy_allocator",
)  # fmt: skip


def parameters(path):
    """Return [name, kind, has a default] of each parameter; None where it tells none."""
    module, _, name = path.partition(":")
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    try:
        signature = inspect.signature(found)
    except ValueError:
        return None
    return [[p.name, int(p.kind), p.default is not p.empty] for p in signature.parameters.values()]


def main():
    names = {name.split("-cu1")[0]: name for name in ("dask-cuda", *_installed())}
    versions = ", ".join(
        f"{short} {importlib.metadata.version(name)}" for short, name in sorted(names.items())
    )
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    known[versions] = {path: parameters(path) for path in CALLED}
    command = importlib.import_module("dask_cuda.cli").worker
    known[versions]["dask_cuda.cli"] = sorted(
        option for one in command.params for option in one.opts if one.param_type_name == "option"
    )
    blocks = []
    for version, calls in sorted(known.items()):
        lines = [f"  {json.dumps(path)}: {json.dumps(found)}" for path, found in calls.items()]
        blocks.append(f" {json.dumps(version)}: {{\n" + ",\n".join(lines) + "\n }")
    FILE.write_text("{\n" + ",\n".join(blocks) + "\n}\n")


def _installed():
    every = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
    return [n for n in every if n.startswith(("rmm-cu", "kvikio-cu"))]


if __name__ == "__main__":
    main()
