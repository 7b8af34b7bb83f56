"""Arrays in one file that maps into memory: a line of JSON, then each array at a page of its own.

The first line tells format, version, what else the index knows, and each array's name, dtype, shape
and offset; it is padded with blanks to whole pages.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.errors import damaged_index_file, unknown_index_version
from gpuvec.storage.object_store import Buffer

FORMAT = "gpuvec-arrays"
_PAGE = 4096


def write_arrays(
    version: int, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> list[Buffer]:
    """Return the parts of a file.

    Args:
        version: of what the arrays mean.
        facts: what JSON can hold.
        arrays: by name.
    """
    listed: list[dict[str, Any]] = [
        {"name": name, "dtype": array.dtype.str, "shape": list(array.shape)}
        for name, array in arrays.items()
    ]
    start = _PAGE
    while True:
        offset = start
        for entry, array in zip(listed, arrays.values(), strict=True):
            entry["offset"] = offset
            offset += -(-array.nbytes // _PAGE) * _PAGE
        head = {"format": FORMAT, "version": version, "facts": dict(facts), "arrays": listed}
        line = json.dumps(head).encode()
        if len(line) < start:
            break
        start = (len(line) // _PAGE + 1) * _PAGE
    parts: list[Buffer] = [line + b" " * (start - len(line) - 1) + b"\n"]
    for array in arrays.values():
        parts += [
            np.ascontiguousarray(array).reshape(-1).view(np.uint8),
            bytes(-array.nbytes % _PAGE),
        ]
    return parts


def read_arrays(
    data: NDArray[np.uint8], version: int
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return facts and read-only views of the arrays of a file.

    Args:
        data: the file.
        version: that is understood.

    Raises:
        UnsupportedError: `GV-330`, it is of another version.
        CorruptError: `GV-331`, it is no such file, or cut off.
    """
    end = np.flatnonzero(data[: 1 << 16] == ord("\n"))
    try:
        head = json.loads(bytes(data[: end[0]])) if len(end) else None
    except ValueError:
        head = None
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise damaged_index_file("it does not begin as such a file does")
    if head["version"] != version:
        raise unknown_index_version(wanted=version, got=head["version"])
    arrays = {}
    for entry in head["arrays"]:
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        part = data[entry["offset"] : entry["offset"] + size]
        if len(part) != size:
            raise damaged_index_file(f"it ends within {entry['name']}")
        array = part.view(dtype).reshape(shape)
        array.flags.writeable = False
        arrays[entry["name"]] = array
    return head["facts"], arrays
