"""Every call of cuVS and FAISS for GPUs fits the signatures that their wheels have.

`record_libraries.py` writes the signatures, of both stacks. Calls of cuVS are made here, on the
rehearsed card, to names that bind the arguments, look at the arrays as cuVS looks at them, and
answer nothing: this imitates no library. Calls of FAISS are read from the source.
"""

import ast
import importlib.machinery
import inspect
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from gpuvec.device.arrays import to_device, to_host
from gpuvec.device.rows import device_rows
from gpuvec.index import cuvs_library, faiss_gpu
from gpuvec.index.cagra_file import CagraGraph
from gpuvec.index.cuvs_cagra import CuvsCagra, CuvsScan
from gpuvec.index.cuvs_ivf import CuvsLists
from gpuvec.index.device_engine import Nodes
from gpuvec.index.device_space import device_space
from gpuvec.index.spec import CAGRA, IVFPQ, IVFSQ8, IVFFlat
from gpuvec.kernels.bitset import pack
from gpuvec.types import Metric

HERE = Path(__file__).parent
SIGNATURES = json.loads((HERE / "library_signatures.json").read_text())
CUVS = sorted(name for name in SIGNATURES if name.startswith("cuvs"))
FAISS = sorted(name for name in SIGNATURES if name.startswith("faiss"))
NODES, WIDTH = 1500, 24
SEEN = ("float32", "float16", "int8", "uint8")


def signature(parameters):
    return inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect._ParameterKind(kind),
                default=None if has_default else inspect.Parameter.empty,
            )
            for name, kind, has_default in parameters
        ]
    )


class Made:
    """What a constructor or `build` gives: the arguments, and the attributes of a class."""

    def __init__(self, given, properties, **values):
        self.given = given
        self._properties = properties
        self._values = values

    def __getattr__(self, name):
        if name not in self._properties:
            raise AttributeError(f"no {name}; it has {self._properties}")
        return self._values.get(name, self.given.get(name))


class Library(types.ModuleType):
    """A module of cuVS that only looks at how it is called; calls are noted in `calls`."""

    def __init__(self, name, held, calls):
        super().__init__(f"cuvs.{name}")
        self.__spec__ = importlib.machinery.ModuleSpec(f"cuvs.{name}", None)
        self._leaf, self._held, self._calls = name.rsplit(".", 1)[1], held, calls

    def __getattr__(self, name):
        if name not in self._held:
            raise AttributeError(f"{self.__name__} has no {name}")
        held = self._held[name]

        def call(*args, **kwargs):
            parameters = held["parameters"] if isinstance(held, dict) else held
            given = dict(signature(parameters).bind(*args, **kwargs).arguments)
            self._calls.append((self._leaf, name, given))
            self._look(name, given)
            if name in ("build", "from_graph", "extend"):
                graph = given.get("graph")
                return Made(given, self._held["Index"]["properties"], n_lists=9, graph=graph)
            properties = held["properties"] if isinstance(held, dict) else []
            return Made(given, [*properties, "sync"], sync=lambda: None)

        return call

    def _look(self, name, given):
        """Compare dtypes and layouts with those that cuVS checks for."""
        wanted = {
            "dataset": SEEN,
            "queries": SEEN,
            "new_vectors": SEEN,
            "new_indices": ("int64",),
            "graph": ("uint32",),
            "bitset": ("uint32",),
            "distances": ("float32",),
            "neighbors": ("uint32",) if self._leaf == "cagra" else ("int64",),
        }
        for argument, dtypes in wanted.items():
            array = given.get(argument)
            if array is not None:
                assert array.dtype.name in dtypes, (self._leaf, name, argument, array.dtype)
                assert array.flags.c_contiguous, (self._leaf, name, argument)
        if name == "search":
            shape = (len(given["queries"]), given["k"])
            assert given["neighbors"].shape == given["distances"].shape == shape
            index = given["index"].given
            base = index.get("dataset")
            base = index["new_vectors"] if base is None else base
            assert base.dtype == given["queries"].dtype
            assert base.shape[1] == given["queries"].shape[1]


@pytest.fixture
def calls(request, monkeypatch, rehearsed):
    """What was called of a version of cuVS."""
    held, found = SIGNATURES[request.getfixturevalue("stack")], []
    modules = {"cuvs": types.ModuleType("cuvs"), "cuvs.neighbors": types.ModuleType("cuvs.n")}
    modules["cuvs.common"] = Library("common.resources", held["common.resources"], found)
    for name in held:
        modules[f"cuvs.{name}"] = Library(name, held[name], found)
    for name, module in modules.items():
        module.__path__ = []
        monkeypatch.setitem(sys.modules, name, module)
    cuvs_library.forget_handles()
    yield found
    cuvs_library.forget_handles()


def nodes_of(metric, hidden):
    rows = np.random.default_rng(0).normal(size=(NODES, WIDTH)).astype(np.float32)
    array = to_device(rows)
    with device_rows(array).held() as held:
        space = device_space(held, array, metric)
        places = to_device(np.arange(0, NODES, 2)) if hidden else None
        count = NODES // 2 if hidden else NODES
        yield Nodes(held=held, places=places, count=count, space=space)


EDGES = np.random.default_rng(0).integers(-1, NODES // 2, (NODES, 64)).astype(np.int32)
ENGINES = {
    "lists": (lambda held: CuvsLists(IVFFlat(n_lists=9)), "ivf_flat"),
    "codes of 8 bits": (lambda held: CuvsLists(IVFSQ8(n_lists=9)), "ivf_sq"),
    "products": (lambda held: CuvsLists(IVFPQ(n_lists=9, pq_bits=8)), "ivf_pq"),
    "products of 4 bits": (lambda held: CuvsLists(IVFPQ(n_lists=9, pq_bits=4, pq_dim=5)), "ivf_pq"),
    "graph": (lambda held: CuvsCagra(CAGRA()), "cagra"),
    "graph of a file": (
        lambda count: CuvsCagra(CAGRA(), CagraGraph(edges=EDGES[:count], rows=None, maker="")),
        "cagra",
    ),
    "scan": (lambda held: CuvsScan(), "brute_force"),
}


@pytest.mark.parametrize("stack", CUVS)
@pytest.mark.parametrize("metric", [Metric.L2, Metric.IP, Metric.COSINE])
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("which", ENGINES)
def test_calls_of_cuvs_fit(stack, calls, which, metric, hidden):
    make, module = ENGINES[which]
    if f"neighbors.{module}" not in SIGNATURES[stack]:
        pytest.skip(f"{stack} has no {module}")
    for nodes in nodes_of(metric, hidden):
        engine = make(nodes.count)
        finder = engine.make(nodes)
        queries = to_device(np.ones((7, WIDTH), np.float32))
        knobs = {"n_probes": 50, "refine": 2, "itopk_size": 40}
        keep = pack(to_device(np.arange(nodes.count) % 3 > 0)) if engine.sees_masks else None
        for mask in (None, keep):
            found = to_host(finder.find(queries, 12, knobs, mask))
            assert found.shape == (7, 12)
            assert found.dtype == np.int64
            assert (found == -1).all(), "memory that nobody wrote to says nothing"
    made = [(leaf, name) for leaf, name, _ in calls]
    assert (module, "search") in made
    searched = [given for leaf, name, given in calls if (leaf, name) == (module, "search")]
    assert all(given["resources"] is not None for given in searched)
    filtered = [given for given in searched if given.get("filter") or given.get("prefilter")]
    assert len(filtered) == (1 if engine.sees_masks else 0)


@pytest.mark.parametrize("stack", CUVS)
def test_lists_get_every_row_once_under_its_number(stack, calls):
    for nodes in nodes_of(Metric.L2, True):
        CuvsLists(IVFFlat(n_lists=9)).make(nodes)
    added = [to_host(given["new_indices"]) for _, name, given in calls if name == "extend"]
    np.testing.assert_array_equal(np.concatenate(added), np.arange(NODES // 2))
    (built,) = [given for _, name, given in calls if name == "build"]
    assert built["index_params"].given["add_data_on_build"] is False


def faiss_calls():
    """Yield (dotted name, node) of each call of FAISS in its adapter for GPUs."""
    for node in ast.walk(ast.parse(inspect.getsource(faiss_gpu))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if re.fullmatch(r"(faiss|self\.held|self\._index)\.\w+", name):
                yield name, node


@pytest.mark.parametrize("stack", FAISS)
def test_calls_of_faiss_fit(stack):
    held, seen = SIGNATURES[stack], set()
    for name, node in faiss_calls():
        name = name.removeprefix("faiss.").replace("self.held.", "StandardGpuResources.")
        arguments = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        if name == "self._index.search_c":
            for kind in ("GpuIndexIVFFlat", "GpuIndexIVFPQ", "GpuIndexIVFScalarQuantizer"):
                signature(held[f"{kind}.search_c"]).bind(*node.args, **arguments)
        elif isinstance(held[name], list) and held[name] and isinstance(held[name][0], str):
            assert set(arguments) <= set(held[name]), name
        elif isinstance(held[name], list):
            signature(held[name]).bind(*node.args, **arguments)
        else:
            assert held[name] is True, name
        seen.add(name)
    assert {"index_cpu_to_gpu", "self._index.search_c", "SearchParametersIVF"} <= seen


@pytest.mark.parametrize("stack", FAISS)
def test_options_of_faiss_have_those_attributes(stack):
    source = ast.parse(inspect.getsource(faiss_gpu))
    stored = {
        node.attr
        for node in ast.walk(source)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and ast.unparse(node.value) == "options"
    }
    assert stored == {"use_cuvs", "indicesOptions"}
    assert stored <= set(SIGNATURES[stack]["GpuClonerOptions"])
    assert {"nprobe", "sel"} <= set(SIGNATURES[stack]["SearchParametersIVF"])
    assert "nlist" in SIGNATURES[stack]["GpuIndexIVFFlat"]
    assert ("NVIDIA_CUVS" in SIGNATURES[stack]["compile options"]) == ("cuvs" in stack)


MADE_FOR_REAL = """
from types import SimpleNamespace
import numpy as np
from gpuvec.index.cuvs_ivf import CuvsLists
from gpuvec.index.cuvs_library import has_cuvs, neighbors_module
from gpuvec.index.spec import CAGRA, IVFPQ, IVFSQ8, IVFFlat
seen = 0
for spec in (IVFFlat(n_lists=8), IVFSQ8(n_lists=8), IVFPQ(n_lists=8), IVFPQ(n_lists=8, pq_bits=4)):
    module = {"ivf_sq8": "ivf_sq"}.get(spec.KIND, spec.KIND)
    if not has_cuvs(module):
        continue
    library = neighbors_module(module)
    for metric in ("sqeuclidean", "inner_product"):
        space = SimpleNamespace(metric_name=metric, center=np.zeros(33))
        assert CuvsLists(spec)._params(library, space, 8).n_lists == 8
        seen += library.SearchParams(n_probes=3).n_probes
cagra = neighbors_module("cagra")
made = cagra.IndexParams(metric="inner_product", intermediate_graph_degree=128, graph_degree=64,
                         build_algo="nn_descent")
assert made.graph_degree == 64
assert cagra.SearchParams(itopk_size=70, num_random_samplings=8).itopk_size == 70
print(seen)
"""


def pythons():
    """Return interpreters with the GPU wheels: those that `GPUVEC_GPU_PYTHONS` lists."""
    return [path for path in os.environ.get("GPUVEC_GPU_PYTHONS", "").split(os.pathsep) if path]


@pytest.mark.slow
@pytest.mark.parametrize("python", pythons() or ["none"])
def test_the_wheels_are_as_recorded_and_take_our_parameters(python):
    if python == "none":
        pytest.skip("GPUVEC_GPU_PYTHONS names no interpreter that has cuVS and FAISS for GPUs")
    run = [python, str(HERE / "record_libraries.py"), "--print"]
    said = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    found = json.loads(said.splitlines()[-1])
    assert found
    for name, held in found.items():
        assert SIGNATURES[name] == held
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(
        [python, "-c", MADE_FOR_REAL], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
