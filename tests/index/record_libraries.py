"""Writes the signatures of what gpuvec calls of cuVS and FAISS for GPUs.

`PYTHON tests/index/record_libraries.py`, with a PYTHON that has them; no card is needed. cuVS is
compiled: its functions tell their parameters, its classes do not, so those are read from the
sources that its wheel carries. FAISS's methods tell theirs; what a `...Parameters` or options class
takes are its attributes. The answer goes beside this file, under the versions.
"""

import ast
import importlib
import inspect
import json
import re
import sys
from pathlib import Path

FILE = Path(__file__).with_name("library_signatures.json")
NEIGHBORS = ("brute_force", "cagra", "ivf_flat", "ivf_pq", "ivf_sq", "filters")
FUNCTIONS = ("build", "search", "extend", "from_graph", "from_bitset")
CLASSES = ("IndexParams", "SearchParams", "Index", "Resources")
FAISS_FUNCTIONS = (
    "index_cpu_to_gpu", "get_compile_options", "cast_integer_to_float_ptr",
    "cast_integer_to_idx_t_ptr", "cast_integer_to_cudastream_t",
    "StandardGpuResources.setTempMemory", "StandardGpuResources.setPinnedMemory",
    "StandardGpuResources.setDefaultStream",
    "GpuIndexIVFFlat.search_c", "GpuIndexIVFPQ.search_c", "GpuIndexIVFScalarQuantizer.search_c",
)  # fmt: skip
FAISS_ATTRIBUTES = ("GpuClonerOptions", "SearchParametersIVF", "GpuIndexIVFFlat", "GpuIndexIVFPQ")
FAISS_NAMES = ("INDICES_64_BIT", "IDSelectorBitmap", "StandardGpuResources", "should_use_cuvs")


def listed(signature):
    """Return [name, kind, has a default] of each parameter but `self`; kinds are `inspect`'s."""
    found = [[p.name, int(p.kind), p.default is not p.empty] for p in signature.parameters.values()]
    return [one for one in found if one[0] != "self"]


def classes_of(source):
    """Return, for each class of a Cython source, its parameters and its public properties."""
    found = {}
    for part in re.split(r"^cdef class ", source, flags=re.M)[1:]:
        head, _, rest = part.partition("\n")
        body = re.split(r"^(?=\S)", rest, flags=re.M)[0]  # up to what is not indented
        makers = re.findall(r"def (__init__|__cinit__)\((self.*?)\):", body, flags=re.S)
        text = dict(makers).get("__init__") or dict(makers).get("__cinit__") or "self"
        text = re.sub(r"\b[A-Za-z_]\w* (?=\w+ *(?:[=,]|$))", "", text)  # C types before names
        arguments = ast.parse(f"def f({text}): pass").body[0].args
        names = [a.arg for a in arguments.args]
        first = len(names) - len(arguments.defaults)
        parameters = [[n, 1, at >= first] for at, n in enumerate(names) if n != "self"]
        named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        parameters += [[a.arg, 3, default is not None] for a, default in named]
        properties = sorted(set(re.findall(r"@property\s+def (\w+)", body)))
        found[re.match(r"\w+", head)[0]] = {"parameters": parameters, "properties": properties}
    return found


def of_cuvs():
    found = {}
    for name in (*(f"neighbors.{n}" for n in NEIGHBORS), "common.resources"):
        try:
            module = importlib.import_module(f"cuvs.{name}")
        except ImportError:
            continue
        leaf = name.rsplit(".", 1)[1]
        source = next(Path(module.__file__).parent.glob(f"{leaf}.pyx")).read_text()
        known = classes_of(source)
        functions = [n for n in FUNCTIONS if hasattr(module, n)]
        found[name] = {n: listed(inspect.signature(getattr(module, n))) for n in functions}
        found[name] |= {n: known[n] for n in CLASSES if n in known and hasattr(module, n)}
    return found


def of_faiss(faiss):
    found = {}
    for name in FAISS_FUNCTIONS:
        item = faiss
        for part in name.split("."):
            item = getattr(item, part)
        found[name] = listed(inspect.signature(item))
    for name in FAISS_ATTRIBUTES:
        found[name] = sorted(n for n in dir(getattr(faiss, name)) if not n.startswith("_"))
    for name in FAISS_NAMES:
        found[name] = hasattr(faiss, name)
    found["compile options"] = sorted(
        set(faiss.get_compile_options().split()) & {"GPU", "NVIDIA_CUVS"}
    )
    return found


def recorded():
    """Return what this interpreter has, by library and version."""
    found = {}
    try:
        import cuvs

        found[f"cuvs {'.'.join(cuvs.__version__.split('.')[:2])}"] = of_cuvs()
    except ImportError:
        pass
    import faiss

    if hasattr(faiss, "StandardGpuResources"):
        kind = "faiss-gpu-cuvs" if "NVIDIA_CUVS" in faiss.get_compile_options() else "faiss-gpu"
        found[f"{kind} {faiss.__version__}"] = of_faiss(faiss)
    return found


def main():
    held = json.loads(FILE.read_text()) if FILE.exists() else {}
    if "--print" in sys.argv:
        print(json.dumps(recorded()))
        return
    held.update(recorded())
    FILE.write_text(json.dumps(held, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
