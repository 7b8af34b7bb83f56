"""The pieces of the sweep of lists, against NumPy: products, scores of centers, the choice."""

import numpy as np
import pytest

from gpuvec.kernels.compiled import njit
from gpuvec.kernels.int8_parts import PARTS
from gpuvec.kernels.int8_tile import MARGIN, TILE_ROWS, WORD, aligned_zeros
from gpuvec.kernels.ivf_ir import LANES, LOWEST, pick_level, spread_scores
from gpuvec.kernels.ivf_pick import (
    ADDED,
    ADDED_EDGE,
    ASKED,
    CHOSEN,
    DOUBT_NORMS,
    DOUBT_STEPS,
    DOUBT_UNITS,
    FACTS,
    FLOOR,
    GAIN,
    INVERSE,
    LEVEL_NEAR,
    LIMIT,
    LINE,
    LINE_EDGE,
    NORM_LOSS,
    PATIENCE,
    SLOPE,
    SLOT,
    SPREAD,
    SPREAD_EDGE,
    SQUARE,
    STEP_LOSS,
    STEPS,
    UNIT,
    choose_flat,
    choose_round,
    seek_flat,
    seek_round,
    set_limits,
)
from gpuvec.kernels.ivf_tile import group_addresses, multiply


@njit
def _multiply(groups, tile, bias, codes, slots, head, shift, limits, keep, masks, sums):
    multiply(
        groups.ctypes.data, tile.ctypes.data, bias.ctypes.data, codes.ctypes.data, codes.shape[1],
        slots.ctypes.data, len(slots), head, tile.shape[0], shift, limits.ctypes.data, keep,
        masks.ctypes.data, sums.ctypes.data,
    )  # fmt: skip


@njit
def _score(sums, added, units, valid, center_units, half, tops, out):
    spread_scores(
        sums.ctypes.data, added.ctypes.data, units.ctypes.data, valid, center_units.ctypes.data,
        half.ctypes.data, tops.ctypes.data, out.ctypes.data, out.strides[0],
    )  # fmt: skip


@njit
def _level(tops, count, out):
    pick_level(tops.ctypes.data, count, out.ctypes.data)


@njit
def _choose(flat, scores, at, size, facts, level, spreads, reach, asked, out):
    """Return the list that `seek` finds from `at` on, and how many `choose` chooses there."""
    here = scores.ctypes.data + at * scores.strides[0]
    told = facts.ctypes.data, facts.strides[0], level, FLOOR
    if flat:
        found = seek_flat(
            scores.ctypes.data, scores.strides[0], at, len(scores), size, *told,
            spreads.ctypes.data, reach,
        )  # fmt: skip
        count = choose_flat(
            here, size, *told, asked.ctypes.data, out.ctypes.data, out.strides[0]
        )  # fmt: skip
    else:
        found = seek_round(
            scores.ctypes.data, scores.strides[0], at, len(scores), size, *told,
            spreads.ctypes.data, reach,
        )  # fmt: skip
        count = choose_round(
            here, size, *told, asked.ctypes.data, out.ctypes.data, out.strides[0]
        )  # fmt: skip
    lines, slopes = out[LINE_EDGE], out[SLOPE]
    set_limits(
        lines.ctypes.data, slopes.ctypes.data, 0.5, count, out.ctypes.data + LIMIT * out.strides[0]
    )  # fmt: skip
    return found, count


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 13, 40])
def test_any_number_of_queries_is_multiplied(count):
    rng, steps, head, shift = np.random.default_rng(count), 12, 4, 2
    tile = aligned_zeros((steps, TILE_ROWS, WORD), np.uint8)
    tile[:] = rng.integers(1, 256, tile.shape)
    codes = rng.integers(-127, 128, (50, steps * WORD)).astype(np.int8)
    slots = rng.permutation(50)[:count].astype(np.int32)
    bias = rng.integers(-1000, 1000, TILE_ROWS).astype(np.int32)
    limits = rng.integers(-20_000, 20_000, count).astype(np.int32)
    masks, sums = np.zeros((count, PARTS), np.uint16), np.zeros((count, TILE_ROWS), np.int32)
    keep = int(rng.integers(0, 1 << TILE_ROWS))
    _multiply(group_addresses(), tile, bias, codes, slots, head, shift, limits, keep, masks, sums)
    weights = np.repeat(np.where(np.arange(steps) < head, 1 << shift, 1), WORD)
    rows = tile.transpose(1, 0, 2).reshape(TILE_ROWS, -1).astype(np.int64)
    wanted = (codes[slots].astype(np.int64) * weights) @ rows.T + bias
    np.testing.assert_array_equal(sums, wanted)
    kept = (keep >> np.arange(TILE_ROWS)) & 1 == 1
    bits = np.unpackbits(masks.view(np.uint8), axis=1, bitorder="little").astype(bool)
    np.testing.assert_array_equal(bits, (wanted > limits[:, None]) & kept)


@pytest.mark.parametrize("valid", [1, 9, 16])
def test_scores_lie_list_by_list_and_levels_are_reached_by_as_many(valid):
    rng = np.random.default_rng(valid)
    sums = rng.integers(-(10**6), 10**6, (LANES, TILE_ROWS)).astype(np.int32)
    added = rng.integers(-1000, 1000, LANES).astype(np.int32)
    units = rng.random(LANES).astype(np.float32)
    center_units = rng.random(TILE_ROWS).astype(np.float32)
    half = rng.random(TILE_ROWS).astype(np.float32)
    half[5] = np.inf
    tops = np.full((TILE_ROWS, LANES), -np.inf, np.float32)
    out = np.zeros((TILE_ROWS, 40), np.float32)
    _score(sums, added, units, valid, center_units, half, tops, out)
    wanted = (sums - added[:, None]) * units[:, None] * center_units - half
    np.testing.assert_allclose(out[:, :valid].T, wanted[:valid], rtol=1e-5)
    assert (out[:, valid:LANES] == -np.inf).all()
    assert (out[:, LANES:] == 0).all()
    np.testing.assert_array_equal(tops, out[:, :LANES])
    levels = np.zeros(LANES, np.float32)
    _level(tops, 7, levels)
    assert ((out[:, :valid] >= levels[:valid]).sum(axis=0) == 7).all()
    assert (levels[valid:] == np.float32(LOWEST)).all()


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("size", [1, 20, 70])
def test_those_are_chosen_whom_a_list_may_help_and_padding_never(flat, size):
    rng, lists = np.random.default_rng(size), 9
    places = -(-size // LANES) * LANES
    scores = np.full((lists, places + LANES), -np.inf, np.float32)
    scores[:, :size] = rng.normal(size=(lists, size))
    scores[:4] = -np.inf
    facts = rng.random((FACTS, places)).astype(np.float32)
    facts[[FLOOR, LEVEL_NEAR]] = LOWEST  # of padding
    facts[FLOOR, :size] = rng.normal(size=size)
    facts[LEVEL_NEAR, :size] = rng.normal(size=size) - 1
    facts[SQUARE] += 3
    spreads, reach = rng.random(lists).astype(np.float32), 0.4
    asked = rng.random(ASKED).astype(np.float32)
    out = np.zeros((CHOSEN, places + LANES), np.float32)
    total = 0
    for at in range(lists):
        asked[GAIN] = np.float32(reach) * spreads[at]
        own, known = scores[at, :size].copy(), facts[:, :size]
        with np.errstate(invalid="ignore"):  # of lists that have no score
            far = 1.0 if flat else np.sqrt(np.maximum(known[SQUARE] - 2 * own, 0))
            best = own + known[SPREAD] * asked[GAIN] * far
        high = (own >= known[LEVEL_NEAR]) & (best >= known[FLOOR])
        found, count = _choose(
            flat, scores, at, size, facts, LEVEL_NEAR, spreads, reach, asked, out
        )
        chosen = np.flatnonzero(high)
        assert (found == at) == (len(chosen) > 0)
        np.testing.assert_array_equal(out.view(np.int32)[SLOT, :count], chosen)
        assert (scores[at, chosen] == -np.inf).all()
        total += count
        some, reached = known[:, chosen], far if flat else far[chosen]
        gap, inverse = some[FLOOR] - own[chosen], some[INVERSE] * asked[STEPS]
        error = some[STEP_LOSS] * asked[DOUBT_STEPS] + some[UNIT] * asked[DOUBT_UNITS]
        error += some[NORM_LOSS] * asked[DOUBT_NORMS]
        edge = gap * inverse + some[ADDED_EDGE]
        slope = some[SPREAD_EDGE] * asked[PATIENCE] * inverse * reached
        np.testing.assert_allclose(out[LINE_EDGE, :count], edge, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out[SLOPE, :count], slope, rtol=1e-4)
        line = (gap - error) * inverse + some[ADDED]
        np.testing.assert_allclose(out[LINE, :count], line, rtol=1e-4, atol=1e-5)
        limits = out.view(np.int32)[LIMIT, :count]
        assert (np.abs(limits + MARGIN - (edge - slope * 0.5)) <= 1).all()
    assert 0 < total < size * lists or size == 1
