"""Compiled search in JSON texts: where the value at a path lies, and of what kind it is.

Texts are UTF-8 bytes with offsets, as Arrow holds them. They are taken for valid JSON, which the door checks; of
others nothing is read beyond a text's end, and nothing sensible is promised. Imported on first use: it needs Numba.
"""

import numba
import numpy as np

MISSING, STRING, INT, FLOAT, TRUE, FALSE, OBJECT, ARRAY = range(8)  # MISSING: no value, or null


@numba.njit(cache=True, nogil=True)
def _skip_space(data, pos, end):
    while pos < end and (data[pos] == 32 or 9 <= data[pos] <= 13):
        pos += 1
    return pos


@numba.njit(cache=True, nogil=True)
def _skip_string(data, pos, end):
    """Return the position after the string that begins at `pos` with its quote."""
    pos += 1
    while pos < end and data[pos] != 34:
        pos += 2 if data[pos] == 92 else 1
    return min(pos + 1, end)


@numba.njit(cache=True, nogil=True)
def _skip_value(data, pos, end):
    """Return the position after the value that begins at `pos`."""
    if pos >= end:
        return end
    first = data[pos]
    if first == 34:
        return _skip_string(data, pos, end)
    if first != 123 and first != 91:
        while pos < end and data[pos] != 44 and data[pos] != 93 and data[pos] != 125 and data[pos] > 32:
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


@numba.njit(cache=True, nogil=True)
def _hex(byte):
    if byte <= 57:
        return byte - 48
    return (byte | 32) - 87


@numba.njit(cache=True, nogil=True)
def _code_unit(data, pos):
    """Return the number in the four hex digits after a `\\u` at `pos`."""
    unit = 0
    for offset in range(2, 6):
        unit = unit * 16 + _hex(np.int64(data[pos + offset]))
    return unit


@numba.njit(cache=True, nogil=True)
def _unescape(data, pos, end, out):
    """Write the character of the escape at `pos` as UTF-8 into `out`.

    Returns:
        bytes written, and the position after the escape. A half of a surrogate pair becomes U+FFFD.
    """
    mark = data[pos + 1] if pos + 1 < end else np.uint8(0)
    if mark != 117 or pos + 6 > end:
        code = np.int64(mark)
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


@numba.njit(cache=True, nogil=True)
def _same_name(data, start, end, name, scratch):
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


@numba.njit(cache=True, nogil=True)
def _member(data, pos, end, name, scratch):
    """Return where the last member of that name begins in the object at `pos`; -1 if there is none."""
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


@numba.njit(cache=True, nogil=True)
def _element(data, pos, end, index):
    """Return where element `index` of the array at `pos` begins; -1 if it is shorter."""
    pos = _skip_space(data, pos + 1, end)
    while pos < end and data[pos] != 93:
        if index == 0:
            return pos
        index -= 1
        pos = _skip_space(data, _skip_space(data, _skip_value(data, pos, end), end) + 1, end)
    return -1


@numba.njit(cache=True, nogil=True)
def _kind(data, start, end):
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


@numba.njit(cache=True, nogil=True)
def find(data, offsets, valid, names, name_offsets, indices, kinds, starts, ends):
    """Find the value at a path in every text.

    Args:
        data, offsets: the texts: (bytes,) uint8 and (n + 1,) int32.
        valid: (n,) bool; other rows are missing.
        names, name_offsets: the steps' names, UTF-8, one after the other; empty for positions.
        indices: (steps,) int64: a position, or -1 for a name.
        kinds, starts, ends: results, (n,) uint8 and int64: the kind, and where in `data` the value lies.
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


@numba.njit(cache=True, nogil=True)
def count_elements(data, starts, ends, kinds, counts):
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


@numba.njit(cache=True, nogil=True)
def list_elements(data, starts, ends, kinds, out_kinds, out_starts, out_ends):
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


@numba.njit(cache=True, nogil=True)
def read_whole(data, starts, ends, kinds, values):
    """Write whole numbers into `values` (n,) int64; those beyond 64 bits become FLOAT in `kinds`."""
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


@numba.njit(cache=True, nogil=True)
def copy_texts(data, starts, ends, wanted, decode, offsets, out):
    """Write the wanted rows' bytes, one after the other.

    Args:
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
