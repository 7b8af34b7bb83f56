"""Every call of cuDF and pylibcudf fits the signatures of both stacks, as their wheels have them.

`record_cudf.py` writes the signatures; no card and no cuDF are needed to compare.
"""

import ast
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from gpuvec.device import cudf_program, frames
from gpuvec.device.program import CASTS, COMPARE, FUSED, TEXTS, Op, column, constant

HERE = Path(__file__).parent
SIGNATURES = json.loads((HERE / "cudf_signatures.json").read_text())
SOURCES = {
    module.__name__: ast.parse(inspect.getsource(module)) for module in (cudf_program, frames)
}
NOTHING = object()


def signature(parameters):
    return inspect.Signature(
        [
            inspect.Parameter(
                name, inspect._ParameterKind(kind),
                default=NOTHING if has_default else inspect.Parameter.empty,
            )
            for name, kind, has_default in parameters
        ]
    )  # fmt: skip


def imported(tree):
    """Return what each name stands for that a module imports of cuDF: (module, name)."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pylibcudf"):
            for alias in node.names:
                found.setdefault(alias.name, set()).add(node.module)
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "cudf":
                    found.setdefault("cudf", set()).add("cudf")
    return found


def places(module, name, held):
    """Return where the wheels say what a name is: `from pylibcudf import Column` is a module's."""
    if module != "pylibcudf":
        return [module] if name in held.get(module, {}) or f"{module}.{name}" in held else []
    return [m for m, names in held.items() if m.startswith("pylibcudf.") and name in names] or (
        [f"pylibcudf.{name}"] if f"pylibcudf.{name}" in held else []
    )


@pytest.mark.parametrize("stack", SIGNATURES)
@pytest.mark.parametrize("module", SOURCES)
def test_what_is_imported_is_there(stack, module):
    held = SIGNATURES[stack]
    for name, modules in imported(SOURCES[module]).items():
        for where in modules:
            assert name == "cudf" or places(where, name, held), f"{where}.{name} is not in {stack}"


def calls(tree):
    """Yield each call as (module or None, dotted name, node), functions' own imports considered."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        names = imported(function)
        for node in ast.walk(function):
            if not isinstance(node, ast.Call):
                continue
            dotted = ast.unparse(node.func)
            root = dotted.split(".")[0]
            if root in names:
                (module,) = names[root]
                yield module, dotted, node


def recorded(module, dotted, held):
    if module == "cudf":
        name = dotted.removeprefix("cudf.")
        return held["cudf"][name]
    root, _, rest = dotted.partition(".")
    (where,) = places(module, root, held)
    names = held[where]
    if not rest and names[root] is None:
        return names[f"{root}.__init__"]
    return names[dotted]


@pytest.mark.parametrize("stack", SIGNATURES)
@pytest.mark.parametrize("module", SOURCES)
def test_calls_fit(stack, module):
    seen = 0
    for where, dotted, node in calls(SOURCES[module]):
        found = signature(recorded(where, dotted, SIGNATURES[stack]))
        starred = any(isinstance(argument, ast.Starred) for argument in node.args)
        bind = found.bind_partial if starred else found.bind
        arguments = [a for a in node.args if not isinstance(a, ast.Starred)]
        bind(*arguments, **{keyword.arg: keyword.value for keyword in node.keywords})
        seen += 1
    assert seen >= 2


@pytest.mark.parametrize("stack", SIGNATURES)
def test_operations_have_names_there(stack):
    held = SIGNATURES[stack]
    ast_operators, binary = held["pylibcudf.expressions"], held["pylibcudf.binaryop"]
    assert set(cudf_program._AST) == FUSED
    for operator in cudf_program._AST.values():
        assert f"ASTOperator.{operator}" in ast_operators
    for name in COMPARE:
        assert f"BinaryOperator.{cudf_program._AST[name]}" in binary
    for name in ("starts_with", "ends_with", "contains"):
        signature(held["pylibcudf.strings.find"][name]).bind("input", "target")


@pytest.mark.parametrize("stack", SIGNATURES)
def test_methods_of_frames_are_there(stack):
    held = SIGNATURES[stack]["cudf"]
    signature(held["DataFrame.take"]).bind("rows")
    signature(held["DataFrame.reset_index"]).bind(drop=True)
    signature(held["DataFrame.copy"]).bind(deep=True)
    signature(held["DataFrame.to_arrow"]).bind(preserve_index=False)
    signature(held["DataFrame.from_pylibcudf"]).bind("table", {"columns": []})
    for value in ("DataFrame.iloc", "DataFrame.columns", "Series.null_count", "Series.values"):
        assert held[value] is None, "a property"


def test_every_operation_is_run_in_one_way():
    ways = FUSED | set(cudf_program._RUN) | {"column", "constant"}
    assert ways >= {*TEXTS, *CASTS, "pick", "either", "among", "element", "count", "has"}


def test_texts_and_lists_are_no_part_of_a_kernel_of_numbers():
    text, number = column("t", pa.string()), column("n", pa.int64())
    one = Op("eq", pa.bool_(), (text, constant("x", pa.string())))
    assert not cudf_program._is_fused(one)
    assert not cudf_program._is_fused(
        Op("is_null", pa.bool_(), (column("l", pa.list_(text.kind)),))
    )
    both = Op("and", pa.bool_(), (one, Op("lt", pa.bool_(), (number, number))))
    assert cudf_program._is_fused(both)


def wheels():
    """Return interpreters that have cuDF: those that `GPUVEC_CUDF_PYTHONS` lists."""
    return [path for path in os.environ.get("GPUVEC_CUDF_PYTHONS", "").split(os.pathsep) if path]


@pytest.mark.slow
@pytest.mark.parametrize("python", wheels() or ["none"])
def test_types_of_arguments_fit_the_stubs_in_the_wheels(python, tmp_path):
    if python == "none":
        pytest.skip("GPUVEC_CUDF_PYTHONS names no interpreter that has cuDF")
    source = tmp_path / "checked.py"
    source.write_text(Path(cudf_program.__file__).read_text())
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\n[mypy-pyarrow.*]\nignore_missing_imports = True\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", config, "--python-executable", python,
         "--follow-imports=silent", "--cache-dir", tmp_path / "cache", source],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
