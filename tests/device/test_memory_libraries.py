"""What is called of RMM, KvikIO and Dask-CUDA fits the signatures that their wheels have.

`record_memory.py` writes the signatures, of both stacks.
"""

import ast
import inspect
import json
import os
import types
from pathlib import Path

import numpy as np
import pytest

from gpuvec.cluster import cards, commands
from gpuvec.device import allocator, disk, transfer
from gpuvec.device.arrays import to_host
from gpuvec.settings import config
from gpuvec.storage.mapping import place_of
from gpuvec.testing.rehearsal import rehearsal, why_not

SIGNATURES = json.loads(Path(__file__).with_name("memory_signatures.json").read_text())


def signature(parameters):
    return inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect._ParameterKind(kind),
                default=None if has_default else inspect.Parameter.empty,
            )
            for name, kind, has_default in parameters
            if name != "self"
        ]
    )


def calls(module):
    """Return name, number of positional arguments and keywords of each call of a method."""
    tree = ast.parse(Path(module.__file__).read_text())
    return [
        (ast.unparse(node.func), len(node.args), [word.arg for word in node.keywords])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]


NAMES = {
    "kvikio.CuFile": "kvikio:CuFile.__init__",
    "file.pread": "kvikio:CuFile.pread",
    "kvikio.defaults.get": "kvikio.defaults:get",
    "kvikio.defaults.set": "kvikio.defaults:set",
    "rmm.mr.get_current_device_resource": "rmm.mr:get_current_device_resource",
    "rmm.mr.set_current_device_resource": "rmm.mr:set_current_device_resource",
}


@pytest.mark.parametrize("stack", SIGNATURES)
def test_every_call_of_kvikio_and_rmm_fits(stack):
    seen = set()
    for name, positional, keywords in (*calls(disk), *calls(allocator)):
        if name in NAMES:
            bound = signature(SIGNATURES[stack][NAMES[name]])
            bound.bind(*range(positional), **dict.fromkeys(keywords))
            seen.add(name)
    assert seen == set(NAMES)


@pytest.mark.parametrize("stack", SIGNATURES)
def test_dask_cuda_takes_the_options_of_a_cluster(stack):
    options = cards.cuda_options(["0", "1"]) | {"rmm_async": True}
    options |= {"rmm_allocator_external_lib_list": ["cupy"], "n_workers": 2}
    known = signature(SIGNATURES[stack]["dask_cuda:LocalCUDACluster.__init__"])
    bound = known.bind(**options, threads_per_worker=1, host="127.0.0.1")
    assert bound.arguments["kwargs"].keys() == {"worker_class", "data", "host"}  # as Dask's own


@pytest.mark.parametrize("stack", SIGNATURES)
def test_the_command_of_workers_is_dask_cudas(stack, monkeypatch):
    monkeypatch.setattr(cards, "visible_cards", lambda: ["0"])
    monkeypatch.setattr(cards.importlib.util, "find_spec", lambda name: name)
    start = commands.Start(databases=())
    line = commands.worker_command(start, "tcp://host:1", None, "w")
    assert line[1:4] == ["-m", "dask_cuda.cli", "tcp://host:1"]  # a module that is one command
    used = {word for word in line if word.startswith("--")}
    assert used <= {*SIGNATURES[stack]["dask_cuda.cli"]}


@pytest.mark.parametrize(
    ("visible", "count", "named"),
    [(None, 2, ["0", "1"]), ("1", 2, ["1"]), ("", 2, []), ("-1", 2, []), ("0, 5,1", 2, ["0"]),
     ("0,0", 1, ["0", "0"]), ("GPU-8a", 4, ["GPU-8a"]), (None, 0, []), ("0", 0, [])],
)  # fmt: skip
def test_cards_are_those_that_cuda_would_show(visible, count, named):
    assert cards.named_cards(visible, count) == named


@pytest.mark.parametrize(
    ("limit", "named", "workers", "limits"),
    [(None, ["0"], 2, (0.45, 0.45)), (0.6, ["0", "1"], 3, (0.3, 0.6, 0.3)),
     (1000, ["0", "0"], 2, (500, 500))],
)  # fmt: skip
def test_workers_of_one_card_share_its_budget(limit, named, workers, limits):
    with config.set(device__memory_limit=limit):
        kind, options = cards.cluster_of(named, workers, None)
    assert kind.__name__ == "LocalCluster"
    assert options["limits"] == pytest.approx(limits)
    assert options["worker_class"] is cards.CardNanny


def test_without_dask_cuda_or_a_driver_there_are_no_cards():
    assert cards.visible_cards() == []


def seen_limit():
    from gpuvec.settings import config as its_own

    return its_own["device.memory_limit"]


@pytest.mark.slow
def test_several_workers_of_one_card_are_told_their_card_and_share(monkeypatch):
    from distributed import Client

    from gpuvec.cluster import launch

    monkeypatch.setattr(cards, "visible_cards", lambda: ["0"])
    with launch.local(2) as cluster, Client(cluster) as client:
        client.wait_for_workers(2)
        told = client.run(lambda: (os.environ[cards.VISIBLE], os.environ[cards.LIMIT]))
        assert set(told.values()) == {("0", "0.45")}
        seen = client.run(seen_limit)
        assert set(seen.values()) == {0.45}


class CuFile:
    """Stands where KvikIO's would, for what is done with its answer."""

    short = False

    def __init__(self, path, flags):
        self.data = Path(path).read_bytes()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def pread(self, out, size, *, file_offset):
        data = np.frombuffer(self.data[file_offset : file_offset + size], out.dtype)
        out.set(data.reshape(out.shape))
        return types.SimpleNamespace(get=lambda: size - self.short)


@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize("short", [False, True])
def test_a_file_is_read_from_where_its_array_begins_and_a_short_read_is_none(
    short, tmp_path, monkeypatch
):
    values = np.arange(600, dtype=np.float32).reshape(100, 6)
    path = tmp_path / "file"
    path.write_bytes(b"x" * 4096 + values.tobytes())
    monkeypatch.setattr(CuFile, "short", short)
    monkeypatch.setattr(disk, "_kvikio", lambda: types.SimpleNamespace(CuFile=CuFile))
    before = transfer.copied().get((transfer.UP, "vectors"), 0)
    with rehearsal():
        found = disk.read_file(disk.FilePlace(str(path), 4096), (100, 6), np.float32, "vectors")
        assert (found is None) == short
        if not short:
            np.testing.assert_array_equal(to_host(found), values)
            assert transfer.copied()[transfer.UP, "vectors"] == before + values.nbytes


def test_files_in_segments_tell_where_vectors_begin(tmp_path):
    import gpuvec as gv

    vectors = np.random.default_rng(0).random((50, 8), np.float32)
    with gv.connect(tmp_path / "db") as db:
        data = {"id": np.arange(50), "v": vectors}
        items = db.create_collection("items", data=data, primary_key="id")
        items.flush()
        with items.plan.source.snapshot() as snapshot:
            path, offset = place_of(snapshot.segments[0].vectors("v").values)
    assert offset % 4096 == 0
    stored = np.fromfile(path, np.float32, vectors.size, offset=offset)
    np.testing.assert_array_equal(stored.reshape(vectors.shape), vectors)
