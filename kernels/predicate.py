"""Conditions over columns in device memory, without cuDF: one kernel for each, a bit a row.

Numbers, times and truth values lie there as Arrow holds them; texts as numbers of their distinct
values, which stay on the host: what is asked of a text is asked of each distinct one there, and the
answers go up as a table. Lists are not held.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpuvec.device.arrays import cupy_module, to_device
from gpuvec.device.columns import ColumnRefusedError
from gpuvec.device.frames import ScalarFrame
from gpuvec.device.program import COMPARE, TEXTS, Op, walk
from gpuvec.kernels.launch import SOURCES, kernel_of, whole
from gpuvec.types import Array

MOST_TEXTS = 1 << 16  # distinct ones of a column; and a quarter of its rows
MOST_SLOTS = 16  # of the stack
_THREADS = 256
_WORD = 32
_FILE = "predicate.cu"

_TEXT = frozenset((*COMPARE, *TEXTS, "is_null", "among"))  # asked of distinct values
_PLAIN = {
    "and": "AND", "or": "OR", "not": "NOT", "is_null": "IS_NULL", "pick": "PICK",
    "either": "EITHER", "xor": "XOR", "bit_and": "BIT_AND", "invert": "INVERT",
}  # fmt: skip
_ROUNDING = {"floor": "FLOOR_F", "ceil": "CEIL_F", "rint": "RINT_F", "div": "DIV_F"}
_LOADS = {
    "bool": "LOAD_BIT", "int8": "LOAD_I8", "int16": "LOAD_I16", "int32": "LOAD_I32",
    "int64": "LOAD_I64", "float": "LOAD_F32", "double": "LOAD_F64",
}  # fmt: skip
_SHOWN = {"starts_with": "starts_with", "ends_with": "ends_with", "contains": "match_substring",
          "like": "match_like"}  # fmt: skip
_COMPARED = {"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater",
             "ge": "greater_equal"}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class PlainColumn:
    """A column on the device.

    Attributes:
        kind: its Arrow type.
        values: of each row: numbers, bits of truth values, or the number of a text.
        valid: bits of rows that are not null; None: all, or a text.
        texts: distinct ones by number, null the last; None: no text.
    """

    kind: pa.DataType
    values: Array
    valid: Array | None
    texts: pa.Array | None = None


class PlainColumns:
    """A `ColumnEngine` of our own kernel: needs CuPy alone."""

    def refuses(self, program: Op) -> str:
        """See `ColumnEngine.refuses`."""
        for op in walk(program):
            if pa.types.is_list(op.kind) or any(pa.types.is_list(arg.kind) for arg in op.args):
                return "lists"
            if any(pa.types.is_string(arg.kind) for arg in op.args) and not _is_of_text(op):
                return "texts beside each other"
        return "so many parts" if _slots(program) > MOST_SLOTS else ""

    def put(self, values: pa.Array) -> PlainColumn:
        """See `ColumnEngine.put`."""
        kind = values.type
        if pa.types.is_string(kind):
            return _put_texts(values)
        name = "int64" if pa.types.is_timestamp(kind) else str(kind)
        if name not in _LOADS:
            raise ColumnRefusedError(f"columns of {kind} are not held there")
        valid = None
        if values.null_count:
            valid = to_device(_bits(values.buffers()[0], values), "scalars")
        data = values.buffers()[1]
        if data is None or not len(values):
            found: NDArray[Any] = np.zeros(len(values), np.int64)
        elif name == "bool":
            found = _bits(data, values)
        else:
            width = kind.bit_width // 8
            found = np.frombuffer(data, f"i{width}", len(values), values.offset * width)
        return PlainColumn(kind, to_device(found, "scalars"), valid)

    def words(self, program: Op, columns: Mapping[str, Any], rows: int) -> Array:
        """See `ColumnEngine.words`. Cost: one read of the columns that the program names."""
        cupy = cupy_module()
        words = cupy.zeros(-(-rows // _WORD), cupy.uint32)
        if not rows:
            return words
        code = _Code(columns)
        code.add(program)
        pointers = np.array(code.places, np.uint64).reshape(-1, 2)
        kernel_of(_FILE, "predicate_bits").launch(
            (-(-rows // _THREADS),),
            (_THREADS,),
            to_device(np.array(code.steps, np.int64), "queries"),
            np.int32(len(code.steps)),
            to_device(pointers, "queries"),
            whole(rows),
            words,
            shared_bytes=8 * _THREADS * _slots(program),
        )
        return words

    def frame(self, columns: Mapping[str, Any], kinds: Mapping[str, pa.DataType]) -> ScalarFrame:
        """See `ColumnEngine.frame`: there is none without cuDF."""
        raise ColumnRefusedError("frames on a device are cuDF's")


def _put_texts(values: pa.Array) -> PlainColumn:
    coded = values.dictionary_encode()
    if len(coded.dictionary) > min(MOST_TEXTS, max(_WORD, len(values) // 4)):
        raise ColumnRefusedError("most texts of a column are distinct")
    codes = pc.fill_null(coded.indices, pa.scalar(len(coded.dictionary), coded.indices.type))
    texts = pa.concat_arrays([coded.dictionary, pa.nulls(1, pa.string())])
    numbers = codes.to_numpy(zero_copy_only=False).astype(np.int32)
    return PlainColumn(values.type, to_device(numbers, "scalars"), None, texts)


def _bits(buffer: Any, values: pa.Array) -> NDArray[np.uint8]:
    """Return a buffer of bits from the array's first row on."""
    whole_bytes, skipped = divmod(values.offset, 8)
    found = np.frombuffer(buffer, np.uint8)[whole_bytes:]
    if skipped:
        plain = np.unpackbits(found, count=skipped + len(values), bitorder="little")
        return np.packbits(plain[skipped:], bitorder="little")
    return found[: -(-len(values) // 8)]


def _is_of_text(op: Op) -> bool:
    """Return whether an operation asks one text column about plain values."""
    first, *rest = op.args
    return op.name in _TEXT and first.name == "column" and all(a.name == "constant" for a in rest)


def _slots(op: Op) -> int:
    """Return how many values of the stack a program needs at once."""
    if _is_leaf(op):
        return 1
    return max(place + _slots(argument) for place, argument in enumerate(op.args))


def _is_leaf(op: Op) -> bool:
    return not op.args or pa.types.is_string(op.args[0].kind)


@cache
def _numbers() -> dict[str, int]:
    """Return the number of each step, as the source says."""
    listed = re.search(r"enum Step \{(.*?)\};", (SOURCES / _FILE).read_text(), re.DOTALL)
    assert listed is not None
    plain = re.sub(r"//.*", "", listed[1])
    return {name: number for number, name in enumerate(re.findall(r"\w+", plain))}


@dataclass(slots=True, eq=False)
class _Code:
    """A program as the kernel reads it.

    Attributes:
        columns: by name.
        steps: (operation + 256 * place, value) each.
        places: (values, bits or table) each, addresses in device memory or 0.
    """

    columns: Mapping[str, PlainColumn]
    steps: list[tuple[int, int]] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    _kept: list[Array] = field(default_factory=list)  # tables, until the kernel has run
    _at: dict[str, int] = field(default_factory=dict)

    def add(self, op: Op) -> None:
        """Append an operation after its arguments."""
        if op.name == "column":
            self._load(op)
        elif op.name == "constant":
            value = _value(op.value, op.kind)
            self._step("NOTHING" if value is None else "CONSTANT", imm=value or 0)
        elif _is_leaf(op):
            self._ask_texts(op)
        elif op.name in ("to_int64", "to_float64"):
            self.add(op.args[0])
            if op.name == "to_float64" and pa.types.is_integer(op.args[0].kind):
                self._step("TO_FLOAT")
        else:
            for argument in op.args:
                self.add(argument)
            self._compute(op)

    def _step(self, name: str, place: int = 0, imm: int = 0) -> None:
        self.steps.append((_numbers()[name] + 256 * place, imm))

    def _place(self, values: Array, other: Array | None) -> int:
        self._kept += [values] if other is None else [values, other]
        self.places.append((values.data.ptr, 0 if other is None else other.data.ptr))
        return len(self.places) - 1

    def _load(self, op: Op) -> None:
        column = self.columns[op.value]
        if op.value not in self._at:
            self._at[op.value] = self._place(column.values, column.valid)
        name = "int64" if pa.types.is_timestamp(op.kind) else str(op.kind)
        self._step(_LOADS[name], self._at[op.value])

    def _ask_texts(self, op: Op) -> None:
        column = self.columns[op.args[0].value]
        assert column.texts is not None
        answers = _answers(op, column.texts)
        if op.name == "length":
            table = pc.fill_null(answers, 0).to_numpy(zero_copy_only=False).astype(np.int64)
            place = self._place(column.values, to_device(table, "queries"))
            self._step("COUNT", place, len(answers) - 1)
            return
        states = pc.fill_null(pc.cast(answers, pa.uint8()), 2).to_numpy(zero_copy_only=False)
        self._step("STATE", self._place(column.values, to_device(states, "queries")))

    def _compute(self, op: Op) -> None:
        first = op.args[0].kind
        suffix = "F" if pa.types.is_floating(first) else "I"
        if op.name == "among":
            wide = pa.float64() if suffix == "F" else pa.int64()
            plain = np.unique(op.value.cast(wide).to_numpy(zero_copy_only=False))
            place = self._place(to_device(plain, "queries"), None)
            self._step(f"AMONG_{suffix}", place, len(plain))
        elif op.name in _PLAIN:
            self._step(_PLAIN[op.name])
        else:
            self._step(_ROUNDING.get(op.name, f"{op.name.upper()}_{suffix}"))


def _answers(op: Op, texts: pa.Array) -> pa.Array:
    """Return what is asked of each text: a truth value, or a length."""
    if op.name == "is_null":
        return texts.is_null()
    if op.name == "length":
        return pc.utf8_length(texts)
    if op.name == "among":
        found = pc.is_in(texts, value_set=op.value)
        return pc.if_else(texts.is_valid(), found, pa.scalar(None, pa.bool_()))
    if op.name in _COMPARED:
        return getattr(pc, _COMPARED[op.name])(texts, pa.scalar(op.args[1].value, pa.string()))
    return getattr(pc, _SHOWN[op.name])(texts, pattern=op.value)


def _value(value: Any, kind: pa.DataType) -> int | None:
    """Return a value's 64 bits as a whole number; None stays None."""
    if value is None:
        return None
    if pa.types.is_floating(kind):
        return int(np.float64(value).view(np.int64))
    return int(pa.scalar(value, kind).value) if pa.types.is_timestamp(kind) else int(value)
