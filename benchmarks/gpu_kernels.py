"""The kernels of gpuvec alone, on the card, each beside the roof that it works under.

    python -m benchmarks.gpu_kernels [--small] [--only SECTION,…] [--json FILE]

Sections: scans, filtered, segments, steps (here), and those of `gpu_small_kernels`, `gpu_filters`.

A scan's roof is the greater of two times: its products at the card's measured rate for that type,
and its bytes at the card's measured copy bandwidth (`device_scan_launch.work_of`). Both ceilings
are measured in the same run. `--small` takes sizes that also finish on a card that is rehearsed.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import gpu_filters, gpu_small_kernels
from benchmarks.gpu_ceilings import seconds
from benchmarks.gpu_report import Ceilings, Row, Sections, run
from gpuvec.device.arrays import to_device, to_host
from gpuvec.kernels import bitset
from gpuvec.kernels.device_scan import device_scan_topk
from gpuvec.kernels.device_scan_codes import DeviceCodes, encode_queries, encode_rows, origin_of
from gpuvec.kernels.device_scan_launch import (
    Pairs,
    ScanPart,
    Table,
    room_of,
    scan_tiles,
    sweep,
    tighten,
    work_of,
)
from gpuvec.types import Metric

K = 10
LARGE: dict[str, Any] = {
    "scans": {"shapes": [(1_000_000, 128), (1_000_000, 768)], "batches": (1, 16, 64, 1024, 10_000)},
    "filtered": {"rows": 1_000_000, "dim": 768, "queries": 4096},
    "segments": {"count": 1000, "each": 10_000, "dim": 128, "queries": 1024},
    "steps": {"rows": 1_000_000, "dim": 768, "queries": 10_000},
    "ceilings": {},
    **gpu_small_kernels.LARGE,
    **gpu_filters.LARGE,
}
SMALL: dict[str, Any] = {
    "scans": {"shapes": [(600, 24)], "batches": (1, 20, 70)},
    "filtered": {"rows": 3000, "dim": 24, "queries": 20},
    "segments": {"count": 5, "each": 200, "dim": 16, "queries": 8},
    "steps": {"rows": 600, "dim": 24, "queries": 20},
    "ceilings": {"size": 64, "copied": 1 << 16},
    **gpu_small_kernels.SMALL,
    **gpu_filters.SMALL,
}
KINDS = ("int8", "float16", "bfloat16")


def made_up(rows: int, queries: int, dim: int) -> tuple[Any, Any]:
    """Return (rows, dim) and (queries, dim) float32."""
    rng = np.random.default_rng(0)
    return tuple(to_device(rng.standard_normal((n, dim), np.float32)) for n in (rows, queries))


def stored(data: Any, kind: str) -> Any:
    """Return float32 rows as the type that has codes of a kind."""
    if kind == "float16":
        return data.astype(np.float16)
    if kind == "bfloat16":
        return (data.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return data


def coded(rows: Any, kind: str, metric: Metric = Metric.IP) -> DeviceCodes:
    """Return the codes of rows."""
    codes = encode_rows(rows, metric, kind, origin_of(rows, metric), 1 << 18)
    assert codes is not None
    return codes


class Sweep:
    """A scan of some parts whose floors are the final ones, so that next to nothing is kept."""

    def __init__(self, parts: list[ScanPart], queries: Any) -> None:
        codes = parts[0].codes
        self.table = Table(parts)
        self.kind = codes.kind
        self.asked = encode_queries(queries, codes.metric, codes.kind, codes.origin)
        self.pairs = self.fresh()
        sweep(self.table, self.kind, self.asked, self.pairs, K)

    def fresh(self) -> Pairs:
        """Return room for pairs, floors below all."""
        import cupy

        m = len(self.asked.norms)
        lowest = cupy.full(m, np.finfo(np.float32).min, cupy.float32)
        return Pairs.make(lowest, room_of(K, m))

    def seconds(self) -> float:
        """Return the time of one pass over all tiles."""

        def once() -> None:
            self.pairs.counts[:] = 0
            scan_tiles(self.table, self.kind, self.asked, self.pairs, 0, self.table.tiles)

        return seconds(once)


def scans(card: Ceilings, shapes: list[tuple[int, int]], batches: tuple[int, ...]) -> Iterator[Row]:
    """Yield the scan of every kind of codes, for small and large batches."""
    for rows, dim in shapes:
        plain, asked = made_up(rows, max(batches), dim)
        for kind in KINDS:
            data = stored(plain, kind)
            part = ScanPart(codes=coded(data, kind), vectors=data, count=rows)
            for count in batches:
                taken = Sweep([part], asked[:count]).seconds()
                yield {
                    "row": "scan", "codes": kind, "rows": rows, "dim": dim, "queries": count,
                    "s": taken, **roof(card, kind, rows, count, part.codes, taken),
                }  # fmt: skip


def roof(
    card: Ceilings, kind: str, rows: int, queries: int, codes: DeviceCodes, taken: float
) -> Row:
    """Return the share of a scan's roof that was reached; the products' only where it is known."""
    work = work_of(rows, queries, codes)
    at_bandwidth = work.read_bytes / (card["copy GB/s"] * 1e9)
    rates = card["products TFLOP/s"]
    rate = rates.get(kind, rates["float16"] if kind == "bfloat16" else None)
    at_products = 0.0 if rate is None else work.operations / (rate * 1e12)
    return {
        "TFLOP/s": work.operations / taken / 1e12, "GB/s": work.read_bytes / taken / 1e9,
        "share of copy": at_bandwidth / taken,
        "share of products": None if rate is None else at_products / taken,
        "share of roof": max(at_bandwidth, at_products) / taken,
        "goal": ">= 0.8 of copy" if queries <= 64 else ">= 0.6 of products (dim >= 256)",
    }  # fmt: skip


def filtered(card: Ceilings, rows: int, dim: int, queries: int) -> Iterator[Row]:
    """Yield both ways of a filtered scan, by pass rate: rows told by bits, rows named."""
    del card
    data, asked = made_up(rows, queries, dim)
    data = stored(data, "float16")
    codes = coded(data, "float16")
    whole = Sweep([ScanPart(codes=codes, vectors=data, count=rows)], asked).seconds()
    for share in (0.9, 0.5, 0.25, 0.1, 0.01):
        keep = to_device(np.random.default_rng(1).random(rows) < share)
        count = int(keep.sum())
        listed = keep.nonzero()[0].astype(np.uint32)
        ways = {
            "bits": ScanPart(codes=codes, vectors=data, count=count, bits=bitset.pack(keep)),
            "named": ScanPart(codes=codes, vectors=data, count=count, listed=listed),
        }
        taken = {name: Sweep([part], asked).seconds() for name, part in ways.items()}
        yield {
            "row": "filtered scan", "share": share, "rows": rows, "dim": dim, "queries": queries,
            "s": taken, "unfiltered s": whole,
            "of the pass rate": min(taken.values()) / (share * whole),
            "goal": "<= 1.3 x the better way: below half the rows they are named",
        }  # fmt: skip


def segments(card: Ceilings, count: int, each: int, dim: int, queries: int) -> Iterator[Row]:
    """Yield many segments in one launch, beside one array of their rows."""
    del card
    data, asked = made_up(count * each, queries, dim)
    data = stored(data, "float16")
    one = ScanPart(codes=coded(data, "float16"), vectors=data, count=len(data))
    many = [
        ScanPart(codes=coded(own, "float16"), vectors=own, count=each)
        for own in (data[start : start + each] for start in range(0, len(data), each))
    ]
    taken = {"one": Sweep([one], asked).seconds(), "many": Sweep(many, asked).seconds()}
    yield {
        "row": "segments in one launch", "segments": count, "rows each": each, "dim": dim,
        "queries": queries, "s": taken, "of one": taken["many"] / taken["one"],
        "goal": "<= 1.15 x one array",
    }  # fmt: skip


def steps(card: Ceilings, rows: int, dim: int, queries: int) -> Iterator[Row]:
    """Yield what a whole answer is made of: codes, passes, tightening, finals."""
    data, asked = made_up(rows, queries, dim)
    codes = coded(data, "int8")
    part = ScanPart(codes=codes, vectors=data, count=rows)
    run = Sweep([part], asked)
    encoding = seconds(lambda: coded(data, "int8"))
    whole = seconds(lambda: device_scan_topk([part], asked, K, scratch_bytes=1 << 30))
    found = device_scan_topk([part], asked, K, scratch_bytes=1 << 30)
    yield {
        "row": "steps of an exact batch", "rows": rows, "dim": dim, "queries": queries,
        "s": {
            "codes of rows": encoding,
            "codes of queries": seconds(
                lambda: encode_queries(asked, codes.metric, codes.kind, codes.origin)
            ),
            "one pass": run.seconds(),
            "all parts": seconds(
                lambda: sweep(run.table, run.kind, run.asked, run.fresh(), K)
            ),
            "tighten": seconds(lambda: tighten(run.pairs, K)),
            "answer": whole,
        },
        "codes of rows, share of copy": (data.nbytes + codes.owned_bytes)
        / encoding / 1e9 / card["copy GB/s"],
        "measured pairs a query": found.candidates / queries,
        "proven": float(to_host(found.proven).mean()),
    }  # fmt: skip


SECTIONS: Sections = {
    "scans": scans, "filtered": filtered, "segments": segments, "steps": steps,
    **gpu_small_kernels.SECTIONS, **gpu_filters.SECTIONS,
}  # fmt: skip

if __name__ == "__main__":
    run(__doc__, SECTIONS, large=LARGE, small=SMALL)
