"""Device code calls only what CuPy has, as CuPy takes it: read in the code, no card needed."""

import ast
import importlib.util
from pathlib import Path

import pytest

import gpuvec
from gpuvec.testing import cupy_names, rehearsal, rehearsed_arrays, rehearsed_cupy
from gpuvec.testing.cupy_names import recorded, signature_of

PACKAGE = Path(gpuvec.__file__).parent
FOLDERS = ("api", "device", "index", "kernels", "query", "segment")
ROOTS = ("xp", "cupy", "cp", "_xp")  # what device code calls the namespace
MAKERS = ("cupy_module", "array_namespace")
WITH_RMM = ["cuda", "set_allocator"]  # RMM is not rehearsed
ANY_ARRAY = {"add", "maximum", "minimum"}  # functions with methods of their own, `xp.add.at`


def chain(node):
    """Return the names of `xp.cuda.Stream` without the root, or None if it is something else."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
        if names[-1] == "_xp":
            return names[-2::-1] or None
    if isinstance(node, ast.Name) and node.id in ROOTS:
        return names[::-1] or None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MAKERS:
        return names[::-1] or None
    return None


def words_of(names):
    """Return what is recorded of a chain of names: None if CuPy has no such thing."""
    place = ".".join(["cupy", *names[:-1]])
    if names[0] in ANY_ARRAY and len(names) == 2:
        place = "cupy.add"
    if place not in recorded():
        return "value"  # of a value: `xp.float32.itemsize`
    whole = ".".join(["cupy", *names])
    return recorded()[place].get(names[-1], "module" if whole in recorded() else None)


def uses(file):
    """Yield (line, names, call or None) of every use of CuPy's names in a file."""
    tree = ast.parse(file.read_text())
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inner = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner and (names := chain(node)):
            yield node.lineno, names, called.get(id(node))


FILES = [
    path
    for folder in FOLDERS
    for path in sorted((PACKAGE / folder).glob("*.py"))
    if any(True for _ in uses(path))
]


@pytest.mark.parametrize("file", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_name_and_parameter_is_cupys(file):
    wrong = []
    for line, names, call in uses(file):
        words = words_of(names)
        if words is None:
            wrong.append(f"line {line}: cupy.{'.'.join(names)} does not exist")
        elif call is not None and words not in ("value", "module") and not fits(words, call):
            wrong.append(f"line {line}: cupy.{'.'.join(names)} takes {words}")
    assert not wrong


def fits(words, call):
    """Return whether a call can be bound; starred arguments are taken for right."""
    if any(isinstance(argument, ast.Starred) for argument in call.args):
        return True
    if any(keyword.arg is None for keyword in call.keywords):
        return True
    takes = rehearsed_cupy.UFUNC if words.startswith("ufunc") else signature_of(words)
    try:
        takes.bind(*call.args, **{keyword.arg: keyword.value for keyword in call.keywords})
    except TypeError:
        return False
    return True


def test_the_check_finds_what_is_wrong(tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text(
        "xp.nan_to_nim(x)\nxp.argsort(x, order=1)\nself._xp.cuda.Straem()\n"
        "cupy_module().cuda.runtime.memGetInf()\nxp.add.of(x)\nxp.argsort(x, axis=1)\n"
        "xp.cuda.Stream(blocking=True)\n"
        "xp.add.at(x, i, 1)\nxp.float32(1)\nxp.cuda.Stream(non_blocking=True)\n"
    )
    found = []
    for line, names, call in uses(file):
        words = words_of(names)
        if words is None or (call is not None and words != "value" and not fits(words, call)):
            found.append(line)
    assert found == [1, 2, 3, 4, 5, 7]


def test_the_code_that_is_read_is_all_that_knows_cupy():
    assert {path.parent.name for path in FILES} >= {"device", "kernels", "index"}


def test_methods_of_rehearsed_arrays_are_cupys():
    known = recorded()["cupy.ndarray"]
    own = {name for name in vars(rehearsed_arrays.DeviceArray) if not name.startswith("_")}
    assert own <= set(known)


def test_every_name_in_use_can_be_rehearsed():
    if why := rehearsal.why_not():
        pytest.skip(why)
    modules = rehearsed_cupy.modules()
    for file in FILES:
        for _, names, _ in uses(file):
            found = modules["cupy"]
            if names == WITH_RMM:
                continue
            for name in names:
                found = getattr(found, name)


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="no CuPy")
@pytest.mark.slow
def test_the_names_are_those_of_the_cupy_that_is_installed():
    now, then = cupy_names.record(), recorded()
    for place, names in now["names"].items():
        assert names == then[place], place
