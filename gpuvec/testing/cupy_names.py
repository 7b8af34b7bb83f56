"""What CuPy has: the public names of its modules and classes, with their parameters.

`cupy_names.json` beside this module is recorded from an installed CuPy; no card is needed:

    python -m gpuvec.testing.cupy_names
"""

import importlib
import inspect
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_suffix(".json")
PLACES = (
    "cupy", "cupy.add", "cupy.cuda", "cupy.cuda.runtime", "cupy.cuda.memory", "cupyx",
    "cupy.ndarray",
    "cupy.RawModule", "cupy.RawKernel", "cupy.cuda.Device", "cupy.cuda.Event",
    "cupy.cuda.MemoryPointer", "cupy.cuda.MemoryPool", "cupy.cuda.PinnedMemoryPool",
    "cupy.cuda.PinnedMemoryPointer", "cupy.cuda.Stream", "cupy.cuda.UnownedMemory",
    "cupy.random.Generator",
)  # fmt: skip


@cache
def recorded() -> dict[str, dict[str, str]]:
    """Return what is recorded: place, then name, then "ufunc", "value" or the parameters.

    Parameters are words: `a` must be given, `a=` may be, `*` begins those given by name only, `**`
    takes any.
    """
    found: dict[str, dict[str, str]] = json.loads(FILE.read_text())["names"]
    return found


def signature_of(words: str) -> inspect.Signature:
    """Return recorded parameters as Python's `inspect` has them."""
    kind: Any = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = []
    for word in words.split():
        if word == "*":
            kind = inspect.Parameter.KEYWORD_ONLY
        elif word.startswith("**"):
            parameters.append(inspect.Parameter("others", inspect.Parameter.VAR_KEYWORD))
        elif word.startswith("*"):
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter("rest", inspect.Parameter.VAR_POSITIONAL))
        else:
            default = None if word.endswith("=") else inspect.Parameter.empty
            parameters.append(inspect.Parameter(word.rstrip("="), kind, default=default))
    return inspect.Signature(parameters)


def record() -> dict[str, Any]:
    """Return what the CuPy that is installed has."""
    import cupy

    places = {place: _names(_found(place)) for place in PLACES}
    return {"version": cupy.__version__, "names": places}


def _found(place: str) -> Any:
    try:
        return importlib.import_module(place)
    except ImportError:
        owner, name = place.rsplit(".", 1)
        return getattr(_found(owner), name)


def _names(owner: Any) -> dict[str, str]:
    found = {}
    for name in sorted(dir(owner)):
        if name.startswith("_") and name not in ("__init__", "__call__"):
            continue
        value = getattr(owner, name, None)
        if inspect.ismodule(value) or (value is None and name != "newaxis"):
            continue
        found[name] = _words(value)
    return found


def _words(value: Any) -> str:
    if type(value).__name__ == "ufunc":
        return f"ufunc {value.nin}"
    if not callable(value):
        return "value"
    text = _text(value)
    if text is None:
        return "value"
    words = []
    for part in _split(text):
        name = part.split("=")[0].split(":")[0].split()[-1:]
        if name in ([], ["self"], ["cls"], ["/"]):
            continue
        words.append(name[0] + ("=" if "=" in part else ""))
    return " ".join(words)


def _text(value: Any) -> str | None:
    """Return what stands between the brackets; compiled functions have it in their docstring."""
    try:
        return str(inspect.signature(value)).split(") ->")[0].strip("()")
    except (ValueError, TypeError):
        first = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")
        found = re.match(r"[\w.]*\((.*?)\)\s*(->.*)?$", first)
        return found[1] if found else None


def _split(text: str) -> list[str]:
    """Cut at commas outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


if __name__ == "__main__":
    FILE.write_text(json.dumps(record(), indent=1, sort_keys=True) + "\n")
