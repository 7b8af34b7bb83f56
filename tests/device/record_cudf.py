"""Writes the signatures of what gpuvec calls of cuDF: `PYTHON tests/device/record_cudf.py`.

PYTHON is one that has cuDF; no card is needed. pylibcudf's are read from the stubs in its wheel,
cuDF's from its functions. The answer goes beside this file, under cuDF's version.
"""

import ast
import inspect
import json
from pathlib import Path

import pylibcudf

FILE = Path(__file__).with_name("cudf_signatures.json")
MODULES = (
    "binaryop", "column", "copying", "expressions", "lists", "replace", "scalar", "search", "table",
    "transform", "types", "unary", "strings/attributes", "strings/contains", "strings/find",
    "gpumemoryview",
)  # fmt: skip
CUDF = ("concat", "DataFrame.from_pylibcudf", "DataFrame.take", "DataFrame.reset_index",
        "DataFrame.copy", "DataFrame.to_arrow", "DataFrame.iloc", "DataFrame.columns",
        "Series.null_count", "Series.values")  # fmt: skip


def parameters(arguments):
    """Return [name, kind, has a default] of each parameter; kinds as `inspect` numbers them."""
    positional = [*arguments.posonlyargs, *arguments.args]
    first = len(positional) - len(arguments.defaults)
    found = [[a.arg, 1, place >= first] for place, a in enumerate(positional)]
    if arguments.vararg:
        found.append([arguments.vararg.arg, 2, False])
    named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    found += [[a.arg, 3, d is not None] for a, d in named]
    if arguments.kwarg:
        found.append([arguments.kwarg.arg, 4, False])
    return found


def stub(file):
    """Return functions, methods (without self) and members of enumerations in a stub."""
    found = {}
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = parameters(node.args)
        if not isinstance(node, ast.ClassDef):
            continue
        found[node.name] = None
        for item in node.body:
            if isinstance(item, ast.Assign):
                found[f"{node.name}.{item.targets[0].id}"] = None
            elif isinstance(item, ast.FunctionDef):
                marks = {d.id for d in item.decorator_list if isinstance(d, ast.Name)}
                own = parameters(item.args)[0 if "staticmethod" in marks else 1 :]
                is_value = "property" in marks
                found[f"{node.name}.{item.name}"] = None if is_value else own
    return found


def of_cudf(name):
    import cudf

    item = cudf
    for part in name.split("."):
        item = inspect.getattr_static(item, part)
    if isinstance(item, property) or not callable(getattr(item, "__func__", item)):
        return None
    function = getattr(item, "__func__", item)
    own = [
        [p.name, int(p.kind), p.default is not p.empty]
        for p in inspect.signature(function).parameters.values()
    ]
    return own[1:] if "." in name else own


def main():
    import cudf

    home = Path(pylibcudf.__file__).parent
    found = {"cudf": {name: of_cudf(name) for name in CUDF}}
    for name in MODULES:
        found[f"pylibcudf.{name.replace('/', '.')}"] = stub(home / f"{name}.pyi")
    held = json.loads(FILE.read_text()) if FILE.exists() else {}
    held[cudf.__version__] = found
    lines = json.dumps(held, indent=1, sort_keys=True)
    FILE.write_text(lines + "\n")


if __name__ == "__main__":
    main()
