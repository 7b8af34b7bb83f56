"""Compiled search in JSON texts: where the value at a path lies, and of what kind it is.

Texts are UTF-8 bytes with offsets, as Arrow holds them. They are taken for valid JSON, which the
door checks; of
others nothing is read beyond a text's end, and nothing sensible is promised. Imported on first use:
it needs Numba.
"""

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from gpuvec.device.compiled import njit, use_fresh_code

use_fresh_code(Path(__file__).parent)

Bytes: TypeAlias = Any  # (bytes,) uint8
Numbers: TypeAlias = Any  # (n,)

MISSING, STRING, INT, FLOAT, TRUE, FALSE, OBJECT, ARRAY = range(8)  # MISSING: no value, or null


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _skip_space(data: Bytes, pos: int, end: int) -> int:
    while pos < end and (data[pos] == 32 or 9 <= data[pos] <= 13):
        pos += 1
    return pos


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _skip_string(data: Bytes, pos: int, end: int) -> int:
    """Return the position after the string that begins at `pos` with its quote."""
    pos += 1
    while pos < end and data[pos] != 34:
        pos += 2 if data[pos] == 92 else 1
    return pos + 1 if pos < end else end


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _skip_value(data: Bytes, pos: int, end: int) -> int:
    """Return the position after the value that begins at `pos`."""
    if pos >= end:
        return end
    first = data[pos]
    if first == 34:
        after: int = _skip_string(data, pos, end)
        return after
    if first != 123 and first != 91:
        while (
            pos < end
            and data[pos] != 44
            and data[pos] != 93
            and data[pos] != 125
            and data[pos] > 32
        ):
            pos += 1
        return pos
    depth = 0
    while pos < end:
        byte = data[pos]
        if byte == 34:
            pos = _skip_string(data, pos, end)
            continue
        if byte == 123 or byte == 91:
            depth += 1
        elif byte == 125 or byte == 93:
            depth -= 1
        pos += 1
        if depth == 0:
            break
    return pos


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _hex(byte: int) -> int:
    if byte <= 57:
        return byte - 48
    return (byte | 32) - 87


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _code_unit(data: Bytes, pos: int) -> int:
    """Return the number in the four hex digits of the `u` escape at `pos`."""
    unit = 0
    for offset in range(2, 6):
        unit = unit * 16 + _hex(np.int64(data[pos + offset]))
    return unit


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _unescape(data: Bytes, pos: int, end: int, out: Bytes) -> tuple[int, int]:
    """Write the character of the escape at `pos` as UTF-8 into `out`.

    Returns:
        bytes written, and the position after the escape. A half of a surrogate pair becomes U+FFFD.
    """
    mark = data[pos + 1] if pos + 1 < end else np.uint8(0)
    if mark != 117 or pos + 6 > end:
        code: Any = np.int64(mark)
        for plain, meant in ((98, 8), (102, 12), (110, 10), (114, 13), (116, 9)):
            if mark == plain:
                code = meant
        out[0] = code
        return 1, min(pos + 2, end)
    code = _code_unit(data, pos)
    pos += 6
    if 0xD800 <= code < 0xE000:
        low = 0
        if code < 0xDC00 and pos + 6 <= end and data[pos] == 92 and data[pos + 1] == 117:
            low = _code_unit(data, pos)
        if 0xDC00 <= low < 0xE000:
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
            pos += 6
        else:
            code = 0xFFFD
    if code < 0x80:
        out[0] = code
        return 1, pos
    if code < 0x800:
        out[0] = 0xC0 | code >> 6
        out[1] = 0x80 | code & 63
        return 2, pos
    if code < 0x10000:
        out[0] = 0xE0 | code >> 12
        out[1] = 0x80 | code >> 6 & 63
        out[2] = 0x80 | code & 63
        return 3, pos
    out[0] = 0xF0 | code >> 18
    out[1] = 0x80 | code >> 12 & 63
    out[2] = 0x80 | code >> 6 & 63
    out[3] = 0x80 | code & 63
    return 4, pos


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _same_name(data: Bytes, start: int, end: int, name: Bytes, scratch: Bytes) -> bool:
    """Return whether the string between quotes at `start` … `end` is `name`."""
    at = 0
    pos = start
    while pos < end:
        if data[pos] == 92:
            count, pos = _unescape(data, pos, end, scratch)
        else:
            scratch[0] = data[pos]
            count = 1
            pos += 1
        if at + count > len(name):
            return False
        for offset in range(count):
            if name[at + offset] != scratch[offset]:
                return False
        at += count
    return at == len(name)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _member(data: Bytes, pos: int, end: int, name: Bytes, scratch: Bytes) -> int:
    """Return where the last member of that name begins in the object at `pos`; -1: none."""
    found = -1
    pos = _skip_space(data, pos + 1, end)
    while pos < end and data[pos] == 34:
        after = _skip_string(data, pos, end)
        matches = _same_name(data, pos + 1, after - 1, name, scratch)
        pos = _skip_space(data, _skip_space(data, after, end) + 1, end)
        if matches:
            found = pos
        pos = _skip_space(data, _skip_space(data, _skip_value(data, pos, end), end) + 1, end)
    return found


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _element(data: Bytes, pos: int, end: int, index: int) -> int:
    """Return where element `index` of the array at `pos` begins; -1 if it is shorter."""
    pos = _skip_space(data, pos + 1, end)
    while pos < end and data[pos] != 93:
        if index == 0:
            return pos
        index -= 1
        pos = _skip_space(data, _skip_space(data, _skip_value(data, pos, end), end) + 1, end)
    return -1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _kind(data: Bytes, start: int, end: int) -> int:
    """Return the kind of the value at `start` … `end`."""
    if start >= end:
        return MISSING
    first = data[start]
    if first == 34:
        return STRING
    if first == 123:
        return OBJECT
    if first == 91:
        return ARRAY
    if first == 116:
        return TRUE
    if first == 102:
        return FALSE
    if first != 45 and not 48 <= first <= 57:
        return MISSING
    for pos in range(start, end):
        if data[pos] == 46 or data[pos] == 101 or data[pos] == 69:
            return FLOAT
    return INT


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def find(
    data: Bytes,
    offsets: Numbers,
    valid: Numbers,
    names: Bytes,
    name_offsets: Numbers,
    indices: Numbers,
    kinds: Numbers,
    starts: Numbers,
    ends: Numbers,
) -> None:
    """Find the value at a path in every text.

    Args:
        data: (bytes,) uint8, the texts.
        offsets: (n + 1,) int32, where each begins and ends.
        valid: (n,) bool; other rows are missing.
        names: UTF-8, the steps' names one after the other; empty for positions.
        name_offsets: (steps + 1,) int64, where each begins and ends.
        indices: (steps,) int64: a position, or -1 for a name.
        kinds: result, (n,) uint8.
        starts: result, (n,) int64, where in `data` the value begins.
        ends: result, (n,) int64, where it ends.
    """
    scratch = np.empty(4, np.uint8)
    for row in range(len(offsets) - 1):
        kinds[row] = MISSING
        starts[row] = 0
        ends[row] = 0
        if not valid[row]:
            continue
        end = np.int64(offsets[row + 1])
        pos = _skip_space(data, np.int64(offsets[row]), end)
        for step in range(len(indices)):
            if pos < 0 or pos >= end:
                pos = -1
            elif indices[step] < 0 and data[pos] == 123:
                name = names[name_offsets[step] : name_offsets[step + 1]]
                pos = _member(data, pos, end, name, scratch)
            elif indices[step] >= 0 and data[pos] == 91:
                pos = _element(data, pos, end, indices[step])
            else:
                pos = -1
        if pos >= 0:
            starts[row] = pos
            ends[row] = _skip_value(data, pos, end)
            kinds[row] = _kind(data, pos, ends[row])


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def count_elements(
    data: Bytes, starts: Numbers, ends: Numbers, kinds: Numbers, counts: Numbers
) -> None:
    """Write how many elements each array has into `counts` (n,) int64; 0 for what is no array."""
    for row in range(len(starts)):
        counts[row] = 0
        if kinds[row] != ARRAY:
            continue
        end = ends[row]
        pos = _skip_space(data, starts[row] + 1, end)
        while pos < end and data[pos] != 93:
            counts[row] += 1
            pos = _skip_space(data, _skip_space(data, _skip_value(data, pos, end), end) + 1, end)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def list_elements(
    data: Bytes,
    starts: Numbers,
    ends: Numbers,
    kinds: Numbers,
    out_kinds: Numbers,
    out_starts: Numbers,
    out_ends: Numbers,
) -> None:
    """Write the elements of all arrays, one after the other; sizes from `count_elements`."""
    out = 0
    for row in range(len(starts)):
        if kinds[row] != ARRAY:
            continue
        end = ends[row]
        pos = _skip_space(data, starts[row] + 1, end)
        while pos < end and data[pos] != 93:
            after = _skip_value(data, pos, end)
            out_starts[out] = pos
            out_ends[out] = after
            out_kinds[out] = _kind(data, pos, after)
            out += 1
            pos = _skip_space(data, _skip_space(data, after, end) + 1, end)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def read_whole(
    data: Bytes, starts: Numbers, ends: Numbers, kinds: Numbers, values: Numbers
) -> None:
    """Write whole numbers into `values` (n,) int64; beyond 64 bits they become FLOAT in `kinds`."""
    limit = np.uint64(2**63 - 1)
    for row in range(len(starts)):
        values[row] = 0
        if kinds[row] != INT:
            continue
        pos = starts[row]
        negative = data[pos] == 45
        largest = limit + np.uint64(1) if negative else limit
        total = np.uint64(0)
        fits = ends[row] - pos <= 20
        for at in range(pos + 1 if negative else pos, ends[row]):
            digit = np.uint64(data[at] - 48)
            if total > (largest - digit) // np.uint64(10):
                fits = False
            total = total * np.uint64(10) + digit
        if not fits:
            kinds[row] = FLOAT
        elif negative:
            values[row] = -np.int64(total - np.uint64(1)) - 1 if total else 0
        else:
            values[row] = np.int64(total)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def copy_texts(
    data: Bytes,
    starts: Numbers,
    ends: Numbers,
    wanted: Numbers,
    decode: bool,
    offsets: Numbers,
    out: Bytes,
) -> None:
    """Write the wanted rows' bytes, one after the other.

    Args:
        data: (bytes,) uint8, the texts.
        starts: (n,) int64, where each value begins.
        ends: (n,) int64, where it ends.
        wanted: (n,) bool; others become empty.
        decode: drop the quotes and undo the escapes.
        offsets: result, (n + 1,) int64.
        out: result, at least as long as the wanted values together, and 4 more.
    """
    at = 0
    offsets[0] = 0
    for row in range(len(starts)):
        if wanted[row]:
            pos = starts[row] + 1 if decode else starts[row]
            end = ends[row] - 1 if decode else ends[row]
            while pos < end:
                if decode and data[pos] == 92:
                    count, pos = _unescape(data, pos, end, out[at : at + 4])
                    at += count
                else:
                    out[at] = data[pos]
                    at += 1
                    pos += 1
        offsets[row + 1] = at
