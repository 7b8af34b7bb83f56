"""LLVM IR that chooses the queries a list is scanned for, 16 at a time, and draws their lines.

Of each query there is a column of facts: `facts` is (FACTS, places) float32, its rows named here.
Addresses are int64, as in `kernels.int8_tile`.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuvec.kernels.int8_ir import I32, I64, load, loop, splat, store, vector
from gpuvec.kernels.int8_tile import FAR, MARGIN, TILE_ROWS, WORD, int8_lanes
from gpuvec.kernels.ivf_ir import F32, LANES, LEAST, LOWEST, REALS, call, spread

# Rows of facts.
FLOOR = 0  # scores below are of no use
LEVEL_FIRST = 1  # of a center's score, that the query's best lists reach
LEVEL_NEAR = 2  # likewise, those that follow
LEVEL_ALL = 3  # likewise, all that have a score
UNIT = 4  # the codes' step beyond the head
INVERSE = 5  # its inverse
ADDED_EDGE = 6  # what the rows' offset adds to products before the edge
ADDED = 7  # and to all
SPREAD = 8  # expected spread of a row's product; for l2: at distance 1 of the center
SPREAD_EDGE = 9  # of what lies beyond the edge
STEP_LOSS = 10  # spread of what rows' rounding takes off scores, in the rows' steps
NORM_LOSS = 11  # spread of what the rotation's rounding takes off, by the rows' norms
SQUARE = 12  # squared norm
ADDED_CENTER = 13  # what the centers' offset adds to products with them, as int32
FACTS = 14

# What is asked of a list, float32.
GAIN = 0  # spreads by which a center's score may be below the floor, of this list
STEPS = 1  # inverse of the codes' step
DOUBT_STEPS = 2  # by which STEP_LOSS,
DOUBT_UNITS = 3  # UNIT
DOUBT_NORMS = 4  # and NORM_LOSS widen a score
PATIENCE = 5  # spreads by which a row may lie below the line at the edge
ASKED = 6

# Rows of what is written of the queries that were chosen.
SLOT = 0  # the query, int32
BASE = 1  # its score of the center
LINE_EDGE = 2  # that sums before the edge must reach,
SLOPE = 3  # less this, times the tile's tail
LINE = 4  # that whole sums must reach
LIMIT = 5  # of the test that comes next, int32
CHOSEN = 6

_SQUEEZE = "llvm.x86.avx512.mask.compress.v16i32"


def _reach(builder: Any, flat: bool, score: Any, facts: Any, gain: Any) -> tuple[Any, Any]:
    """Emit by how much scores may rise above their center's, and the distance from there."""
    rise, far = builder.fmul(facts(SPREAD), gain), None
    if not flat:
        zero, minus = ir.Constant(REALS, [0.0] * LANES), ir.Constant(REALS, [-2.0] * LANES)
        far = builder.fadd(facts(SQUARE), builder.fmul(score, minus))
        far = builder.select(builder.fcmp_ordered(">", far, zero), far, zero)
        far = call(builder, "llvm.sqrt.v16f32", REALS, [far])
        rise = builder.fmul(rise, far)
    return rise, far


def _any(builder: Any, flags: Any) -> Any:
    """Emit whether any lane is flagged."""
    some = builder.bitcast(flags, ir.IntType(LANES))
    return builder.icmp_unsigned("!=", some, ir.IntType(LANES)(0))


def _flags(builder: Any, score: Any, level: Any, rise: Any, floor: Any) -> Any:
    """Emit the test whether a list is worth scanning."""
    return builder.and_(
        builder.fcmp_ordered(">=", score, level),
        builder.fcmp_ordered(">=", builder.fadd(score, rise), floor),
    )


def _reader(builder: Any, facts: Any, stride: Any, index: Any) -> Any:
    """Return what reads 16 queries' facts of a row, an int or an int64 of LLVM."""
    begin = builder.add(facts, builder.mul(index, I64(4)))

    def read(row: Any) -> Any:
        row = I64(row) if isinstance(row, int) else row
        return load(builder, builder.add(begin, builder.mul(row, stride)), REALS)

    return read


def _append(builder: Any, flags: Any, values: list[Any], out: Any, stride: Any, total: Any) -> Any:
    """Emit the append of flagged lanes to rows of `out`; return the new total."""
    begin = builder.add(out, builder.mul(total, I64(4)))
    rows = [builder.add(begin, builder.mul(stride, I64(row))) for row in range(len(values))]
    words = [builder.bitcast(value, vector(LANES)) for value in values]
    if int8_lanes() == LANES:
        for word, row in zip(words, rows, strict=True):
            store(builder, call(builder, _SQUEEZE, vector(LANES), [word, word, flags]), row)
        few = builder.bitcast(flags, ir.IntType(LANES))
        more = call(builder, "llvm.ctpop.i16", ir.IntType(LANES), [few])
        return builder.add(total, builder.zext(more, I64))
    added = I64(0)
    for lane in range(LANES):
        for word, row in zip(words, rows, strict=True):
            place = builder.add(row, builder.mul(added, I64(4)))
            store(builder, builder.extract_element(word, I32(lane)), place)
        added = builder.add(added, builder.zext(builder.extract_element(flags, I32(lane)), I64))
    return builder.add(total, added)


def _lines(builder: Any, score: Any, far: Any, facts: Any, ask: Any) -> list[Any]:
    """Return BASE, LINE_EDGE, SLOPE, LINE."""
    floor, lowest = facts(FLOOR), spread(builder, ir.Constant(F32, LOWEST))
    floor = builder.select(builder.fcmp_ordered(">", floor, lowest), floor, lowest)
    gap = builder.fsub(floor, score)
    inverse = builder.fmul(facts(INVERSE), ask(STEPS))
    edge = builder.fadd(builder.fmul(gap, inverse), facts(ADDED_EDGE))
    slope = builder.fmul(builder.fmul(facts(SPREAD_EDGE), ask(PATIENCE)), inverse)
    slope = slope if far is None else builder.fmul(slope, far)
    error = builder.fmul(facts(STEP_LOSS), ask(DOUBT_STEPS))
    error = builder.fadd(error, builder.fmul(facts(UNIT), ask(DOUBT_UNITS)))
    error = builder.fadd(error, builder.fmul(facts(NORM_LOSS), ask(DOUBT_NORMS)))
    line = builder.fmul(builder.fsub(gap, error), inverse)
    return [score, edge, slope, builder.fadd(line, facts(ADDED))]


def _make_choose(flat: bool) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scores, count, facts, stride, level, floor, asked, out, width = args

        def ask(row: int) -> Any:
            return spread(builder, load(builder, asked, F32, 4 * row))

        gain = ask(GAIN)
        found = cgutils.alloca_once(builder, I64)
        builder.store(I64(0), found)

        def step(index: Any, carried: list[Any]) -> list[Any]:
            read = _reader(builder, facts, stride, index)
            own = builder.add(scores, builder.mul(index, I64(4)))
            score = load(builder, own, REALS)
            high = builder.fcmp_ordered(">=", score, read(level))
            with builder.if_then(_any(builder, high)):
                rise, far = _reach(builder, flat, score, read, gain)
                near = builder.fcmp_ordered(">=", builder.fadd(score, rise), read(floor))
                flags = builder.and_(high, near)
                with builder.if_then(_any(builder, flags)):
                    choose(index, own, score, far, flags, read)
            return []

        def choose(index: Any, own: Any, score: Any, far: Any, flags: Any, read: Any) -> None:
            store(builder, builder.select(flags, LEAST, score), own)
            steps = ir.Constant(vector(LANES), list(range(LANES)))
            names = builder.add(splat(builder, builder.trunc(index, I32), LANES), steps)
            values = [names, *_lines(builder, score, far, read, ask)]
            total = builder.load(found)
            builder.store(_append(builder, flags, values, out, width, total), found)

        loop(builder, I64(0), count, LANES, [], step)
        return builder.load(found)

    @intrinsic  # type: ignore[untyped-decorator]
    def choose(
        typingctx: Any, scores: Any, count: Any, facts: Any, stride: Any, level: Any, floor: Any,
        asked: Any, out: Any, width: Any,
    ) -> Any:  # fmt: skip
        """Choose the queries that a list may help, and draw their lines.

        Args:
            typingctx: of Numba.
            scores: address of (count,) float32, of the list's center; -inf is written where a query
                is chosen, and it is not chosen again.
            count: of queries; scores are padded with -inf to a multiple of 16.
            facts: address, see the rows above.
            stride: bytes between rows of facts.
            level: row of facts that scores must reach.
            floor: row of facts that scores must reach with what they may rise by.
            asked: address of (ASKED,) float32.
            out: address of (CHOSEN, ...) 4-byte numbers, written up to LINE, and 16 columns beyond.
            width: bytes between rows of `out`.

        Returns:
            how many were chosen.
        """
        return types.int64(*[types.int64] * 9), codegen

    return choose


def _make_seek(flat: bool) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scores, row_bytes, start, stop, count, facts, stride, level, floor, spreads, reach = args
        none = ir.Constant(ir.VectorType(ir.IntType(1), LANES), [0] * LANES)
        before = builder.block
        head, body, done = (builder.append_basic_block(f"seek.{name}") for name in "hbd")
        builder.branch(head)
        builder.position_at_end(head)
        at = builder.phi(I64)
        at.add_incoming(start, before)
        builder.cbranch(builder.icmp_signed("<", at, stop), body, done)
        builder.position_at_end(body)
        row = builder.add(scores, builder.mul(at, row_bytes))
        own = load(builder, builder.add(spreads, builder.mul(at, I64(4))), F32)
        gain = spread(builder, builder.fmul(own, builder.fptrunc(reach, F32)))

        def step(index: Any, carried: list[Any]) -> list[Any]:
            read = _reader(builder, facts, stride, index)
            score = load(builder, builder.add(row, builder.mul(index, I64(4))), REALS)
            rise, _ = _reach(builder, flat, score, read, gain)
            return [builder.or_(carried[0], _flags(builder, score, read(level), rise, read(floor)))]

        (flags,) = loop(builder, I64(0), count, LANES, [none], step)
        some = builder.bitcast(flags, ir.IntType(LANES))
        found = builder.icmp_unsigned("!=", some, ir.IntType(LANES)(0))
        at.add_incoming(builder.add(at, I64(1)), builder.block)
        builder.cbranch(found, done, head)
        builder.position_at_end(done)
        place = builder.phi(I64)
        place.add_incoming(stop, head)
        place.add_incoming(at, at.incomings[1][1])
        return place

    @intrinsic  # type: ignore[untyped-decorator]
    def seek(
        typingctx: Any, scores: Any, row_bytes: Any, start: Any, stop: Any, count: Any, facts: Any,
        stride: Any, level: Any, floor: Any, spreads: Any, reach: Any,
    ) -> Any:  # fmt: skip
        """Return the next list that `choose` would choose a query for, or `stop`.

        Args:
            typingctx: of Numba.
            scores: address of (lists, ...) float32.
            row_bytes: between the scores of two lists.
            start: first list.
            stop: end of the lists.
            count: see `choose`.
            facts: see `choose`.
            stride: see `choose`.
            level: see `choose`.
            floor: see `choose`.
            spreads: address of (lists,) float32.
            reach: float64; times a list's spread it is GAIN.
        """
        return types.int64(*[types.int64] * 10, types.float64), codegen

    return seek


choose_flat, choose_round = _make_choose(flat=True), _make_choose(flat=False)
seek_flat, seek_round = _make_seek(flat=True), _make_seek(flat=False)


@intrinsic  # type: ignore[untyped-decorator]
def set_limits(typingctx: Any, lines: Any, slopes: Any, tail: Any, count: Any, out: Any) -> Any:
    """Write the integers that sums must be greater than.

    Args:
        typingctx: of Numba.
        lines: address of (count,) float32; sums must reach `lines - slopes * tail`.
        slopes: address of (count,) float32.
        tail: float64.
        count: of queries; up to 15 beyond are written too.
        out: address of int32, written.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lines, slopes, tail, count, out = args
        tails = spread(builder, tail)
        far, near = (ir.Constant(REALS, [side * FAR] * LANES) for side in (1.0, -1.0))
        margin = ir.Constant(vector(LANES), [MARGIN] * LANES)

        def step(index: Any, carried: list[Any]) -> list[Any]:
            at = builder.mul(index, I64(4))
            line = load(builder, builder.add(lines, at), REALS)
            slope = load(builder, builder.add(slopes, at), REALS)
            line = builder.fsub(line, builder.fmul(slope, tails))
            line = builder.select(builder.fcmp_ordered("<", line, far), line, far)
            line = builder.select(builder.fcmp_ordered(">", line, near), line, near)
            whole = builder.sub(builder.fptosi(line, vector(LANES)), margin)
            store(builder, whole, builder.add(out, at))
            return []

        loop(builder, I64(0), count, LANES, [], step)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float64, types.int64, types.int64), codegen


def _make_fetch(stride: int, nearness: int) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, stop = args
        byte = ir.IntType(8).as_pointer()

        def step(index: Any, carried: list[Any]) -> list[Any]:
            kind = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
            fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            builder.call(fetch, [builder.inttoptr(index, byte), I32(0), I32(nearness), I32(1)])
            return []

        loop(builder, address, stop, stride, [], step)
        return context.get_dummy_value()

    @intrinsic  # type: ignore[untyped-decorator]
    def fetch(typingctx: Any, address: Any, stop: Any) -> Any:
        """Ask the memory for what will be read soon, from an address to another."""
        return types.void(types.int64, types.int64), codegen

    return fetch


fetch_near = _make_fetch(64, 3)  # to the first cache
fetch_tile = _make_fetch(64, 2)  # to the second
fetch_part = _make_fetch(TILE_ROWS * WORD, 3)  # every step of 16 rows
