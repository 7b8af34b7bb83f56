"""Contracts notice broken kernels: missing barriers, wrong lanes, lost bits."""

import faulthandler
import os
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest

from gpuvec.device.arrays import to_device, to_host
from gpuvec.kernels.bits_topk import bits_topk
from gpuvec.kernels.bitset import pack
from gpuvec.kernels.groups_topk import groups_topk, groups_topk_reference
from gpuvec.kernels.launch import source_of
from gpuvec.kernels.merge_k import merge_k
from gpuvec.kernels.neighbors import Neighbors
from gpuvec.kernels.pairwise import paired_distances, paired_in_numpy, pairwise_distances
from gpuvec.kernels.range_pairs import Doubt, range_pairs
from gpuvec.kernels.select_k import select_k, select_k_reference
from gpuvec.testing import rehearsal
from gpuvec.testing.kernels import made_up
from gpuvec.testing.shim import ShimError
from gpuvec.types import Metric

BARRIER = "        __syncthreads();\n"
ORDERS = (1, 2, 3)


def pairs_are_right() -> bool:
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        queries, rows = made_up(Metric.L2, dtype, 70, 37)
        owner, row = np.repeat(np.arange(5), 70), np.tile(np.arange(70), 5)
        q, r = to_device(queries), to_device(rows)
        one = to_host(paired_distances(q, r, to_device(owner), to_device(row), Metric.L2))
        tile = to_host(pairwise_distances(q, r, Metric.L2))
        wanted = paired_in_numpy(queries, rows, owner, row, Metric.L2)
        exact = pairwise_distances(queries, rows, Metric.L2)
        if not (np.array_equal(one, wanted) and np.allclose(tile, exact, rtol=1e-5)):
            return False
    return tiny_pairs_are_right()


def tiny_pairs_are_right() -> bool:
    for dtype, size in ((np.float16, 3e-6), (np.float32, 1e-39), (np.float32, 1e-20)):
        queries, rows = made_up(Metric.L2, np.float32, 70, 37)
        queries, rows = (queries * size).astype(np.float32), (rows / 20 * size).astype(dtype)
        owner, row = np.repeat(np.arange(5), 70), np.tile(np.arange(70), 5)
        for metric in (Metric.COSINE, Metric.IP):
            moved = [to_device(x) for x in (queries, rows, owner, row)]
            found = to_host(paired_distances(*moved, metric))
            if not np.array_equal(found, paired_in_numpy(queries, rows, owner, row, metric)):
                return False
    return True


def selections_are_right() -> bool:
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(2, 3000)).astype(np.float32)
    tied = rng.integers(0, 3, (2, 3000)).astype(np.float32)
    zeros = np.where(rng.random((2, 300)) < 0.5, np.float32(-0.0), np.float32(0.0))
    for distances in (spread, tied, zeros):
        rank = rng.permutation(distances.shape[1])
        for k in (7, 200):
            wanted = select_k_reference(distances, k, tie_rank=rank)
            found = select_k(to_device(distances), k, tie_rank=to_device(rank))
            if not np.array_equal(to_host(found.rows), wanted.rows):
                return False
    return long_rows_are_right(rng) and merges_are_right(rng)


def long_rows_are_right(rng) -> bool:
    distances = rng.normal(size=(1, 9000)).astype(np.float32)
    falling = np.arange(300, 0, -1, dtype=np.float32)[None]
    return all(
        np.array_equal(to_host(select_k(to_device(x), k).rows), select_k_reference(x, k).rows)
        for x, k in ((distances, 40), (falling, 128))
    )


def merges_are_right(rng) -> bool:
    rows = np.where(rng.random((2, 90)) < 0.5, -1, rng.permutation(90))
    distances = np.where(rows < 0, 0, rng.integers(0, 9, (2, 90))).astype(np.float32)
    found = to_host(merge_k([Neighbors(to_device(rows), to_device(distances))], 20).rows)
    for i in range(2):
        real = np.flatnonzero(rows[i] >= 0)
        order = real[np.argsort(distances[i, real], kind="stable")]
        if not np.array_equal(found[i], rows[i, order[:20]]):
            return False
    return True


def bits_are_right() -> bool:
    rng = np.random.default_rng(2)
    for metric, width in ((Metric.HAMMING, 8), (Metric.JACCARD, 12), (Metric.JACCARD, 5)):
        queries, rows = made_up(metric, np.uint8, 5000, width)
        mask, rank = rng.random(5000) < 0.4, rng.permutation(5000)
        mask[640:800] = False
        distances = np.where(mask, pairwise_distances(queries, rows, metric), np.inf)
        bound = np.sort(distances, axis=1)[:, 9].astype(np.float32)
        found = bits_topk(
            to_device(queries), to_device(rows), 20, metric, bits=pack(to_device(mask)),
            tie_rank=to_device(rank), bound=to_device(bound),
        )  # fmt: skip
        for i in range(5):
            near = np.flatnonzero(distances[i] <= bound[i])
            near = near[np.lexsort((rank[near], distances[i, near]))][:20]
            if not np.array_equal(to_host(found.rows)[i, : len(near)], near):
                return False
    return True


def ranges_are_right() -> bool:
    rng = np.random.default_rng(4)
    distances = rng.integers(0, 30, (3, 3001)).astype(np.float32)
    low, high = np.array([3, 5, 7], np.float32), np.array([9, 8, 20], np.float32)
    sizes = [rng.random(count).astype(np.float32) * 3 for count in distances.shape]
    for doubt in ({}, {"queries": sizes[0], "rows": sizes[1]}):
        slack = sizes[0][:, None] * sizes[1] if doubt else np.float32(0)
        inside = (distances - slack <= high[:, None]) & (distances + slack > low[:, None])
        moved = Doubt(**{name: to_device(value) for name, value in doubt.items()})
        found = range_pairs(to_device(distances), to_device(low), to_device(high), moved)
        if not all(
            np.array_equal(to_host(x), y) for x, y in zip(found, np.nonzero(inside), strict=True)
        ):
            return False
    return True


def groups_are_right() -> bool:
    rng = np.random.default_rng(8)
    distances = rng.integers(0, 5, (3, 500)).astype(np.float32) - 2
    distances[distances == 0] = np.where(rng.random((distances == 0).sum()) < 0.5, 0.0, -0.0)
    codes = rng.integers(-1, 9, 500).astype(np.int32)
    codes[-1], distances[:, -1] = 4, -9
    keep, rank = rng.random(500) < 0.5, rng.permutation(500)
    keep[-1] = True
    wanted = groups_topk_reference(distances, codes, 9, 30, keep, rank)
    found = groups_topk(
        to_device(distances), to_device(codes), 9, 30,
        bits=pack(to_device(keep)), tie_rank=to_device(rank),
    )  # fmt: skip
    return np.array_equal(to_host(found.rows), wanted.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One kernel, broken.

    Attributes:
        file: its source.
        text: what stands there, once or more.
        instead: what breaks it.
        right: whether answers are still right.
        quick: it is the one of its kernel that every run checks.
    """

    file: str
    text: str
    instead: str
    right: Callable[[], bool]
    quick: bool = False


def broken(file, right, *changes):
    return [
        Mutant(file=file, text=text, instead=instead, right=right, quick=number == 0)
        for number, (text, instead) in enumerate(changes)
    ]


MUTANTS = [
    *broken(
        "pairwise.cu", pairs_are_right,
        (BARRIER + "        float part", "        float part"),
        (BARRIER + "    }\n    for", "    }\n    for"),
        ("int step = 8", "int step = 4"),
        ("c += 16)", "c += 15)"),
        ("i < m && j < n", "i < m && j < n - 1"),
        ("column += SLICE", "column += SLICE + 1"),
        ("bits << 16", "bits << 15"),
        ("112u << 23", "111u << 23"),
        ("0x33800000u", "0x33000000u"),
        ("x = to_double(q[c])", "x = q[c]"),
        ("y = to_double(widen(r[c]))", "y = widen(r[c])"),
        ("to_float(found)", "(float)found"),
    ),
    *broken(
        "best_k.cu", selections_are_right,
        ("                __syncwarp();\n            }\n        }\n        waiting = 0;",
         "            }\n        }\n        waiting = 0;"),
        ("__popc(lower)", "__popc(votes)"),
        ("waiting + LANES > room", "waiting > room + LANES"),
        ("a.rank < b.rank", "a.rank > b.rank"),
        ("if (bits == 0x80000000u) bits = 0;", ""),
        ("start + entry.place", "entry.place"),
        ("key <= best.worst.key", "key < best.worst.key"),
        ("i64 j = column + r * LANES + lane;\n            Entry",
         "i64 j = column + r * LANES + lane + 1;\n            Entry"),
        ("column += READ * LANES", "column += READ * LANES + 1"),
        ("worst = entries[keep - 1]", "worst = entries[0]"),
        ("own_rows[j] < 0)", "own_rows[j] < -1)"),
        ("at < size; at += LANES) entries[at] = nothing();", "at < size; at += LANES) {}"),
    ),
    *broken(
        "bits_topk.cu", bits_are_right,
        ("    __syncthreads();\n", ""),
        ("word >> lane & 1", "word >> (31 - lane) & 1"),
        ("mask[base / LANES]", "mask[start / LANES]"),
        ("if (!word) continue;", "if (!word) break;"),
        ("row + at)", "row)"),
        ("j < stop &&", "j <= stop &&"),
        ("at / stride, column", "at / width, column"),
        ("x | y", "x & y"),
        ("key <= last[q] &&", "key < last[q] &&"),
        ("start + entry.place : -1", "entry.place : -1"),
        ("(warp * OWN + q) * room", "warp * room"),
        ("unit % 8 == 0", "unit % 4 == 0"),
    ),
    *broken(
        "range_pairs.cu", ranges_are_right,
        ("(1u << lane) - 1", "(2u << lane) - 1"),
        ("at += __popc(votes);", "at += 1;"),
        ("distance + doubt <= low[i]", "distance + doubt < low[i]"),
        ("distance - doubt > high[i]", "distance - doubt >= high[i]"),
        ("task % parts * part_size", "task % parts"),
        ("j < stop && question", "question"),
        ("query_doubt[i]", "query_doubt[0]"),
    ),
    *broken(
        "groups_topk.cu", groups_are_right,
        ("own <= before[cell]", "own < before[cell]"),
        ("own < best[cell]", "own > best[cell]"),
        ("if (bits == 0x80000000u) bits = 0;", ""),
        ("query * groups + group", "query * groups + group / 2"),
        ("j % 32", "(j + 1) % 32"),
        ("if (group < 0) return;", "if (group < 0) group = 0;"),
        ("orders[j] : (u32)j", "(u32)j : (u32)j"),
        ("j >= n ||", "j >= n - 1 ||"),
    ),
    *broken(
        "select_k.cu", selections_are_right,
        (BARRIER + "        u64 known", "        u64 known"),
        (BARRIER + "        if (threadIdx.x == 0) {\n            int", "if (!threadIdx.x) { int"),
        ("columns.rank(j) <= last_rank", "columns.rank(j) < last_rank"),
        ("if (bits == 0x80000000u) bits = 0;", ""),
        ("state->left > (i64)bins", "state->left >= (i64)bins"),
        ("~bits : bits |", "bits : bits |"),
    ),
]  # fmt: skip


def still_right(right, change=None):
    """Return whether answers are right in every order of threads.

    It is found out in a process of its own: a broken kernel may write anywhere.
    """
    child = os.fork()
    if not child:
        faulthandler.disable()
        os._exit(0 if right_in_every_order(right, change) else 1)
    return os.waitpid(child, 0)[1] == 0


def right_in_every_order(right, change):
    for order in ORDERS:
        with rehearsal.rehearsal(order=order, change=change):
            try:
                if not right():
                    return False
            except (IndexError, ShimError):  # places that were not written; threads that hang
                return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize(
    "right",
    [pairs_are_right, selections_are_right, bits_are_right, ranges_are_right, groups_are_right],
)
def test_the_sources_as_they_are_work(rehearsed, right):
    assert still_right(right)


@pytest.mark.parametrize(
    "mutant",
    [pytest.param(one, marks=() if one.quick else pytest.mark.slow) for one in MUTANTS],
    ids=lambda one: f"{one.file} {one.text.strip()[:40]!r}",
)
def test_a_broken_kernel_is_noticed(rehearsed, mutant):
    assert mutant.text in source_of(mutant.file)
    assert not still_right(mutant.right, lambda code: code.replace(mutant.text, mutant.instead))
