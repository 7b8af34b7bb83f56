"""The distance of a pair of vectors: its one definition, on host and device.

Every path that finds a pair asks `paired_distances` for the final number, so embedded, batch,
one-query and cluster answers are equal to the last bit. Sums run in float64 over `WIDE_LANES`
lanes, column c in lane c % 16, lanes added halves upon halves, and are rounded once, to float32.
"""

from typing import Any

import numpy as np

from gpuvec.device.arrays import array_namespace, is_bfloat16, is_device_array
from gpuvec.errors import metric_needs, wrong_width
from gpuvec.kernels.parallel import run_parallel, split
from gpuvec.types import Array, Metric

METRIC_CODES = {metric: code for code, metric in enumerate(Metric)}  # as in `.cu` and host bodies
_BINARY = (Metric.HAMMING, Metric.JACCARD)
_DENSE_DTYPES = ("float32", "float16", "bfloat16", "int8", "uint8")
_PAIRS_PER_THREAD = 4096


def is_binary(metric: Metric) -> bool:
    """Return whether a metric measures packed bits."""
    return metric in _BINARY


def check_pair(queries: Array, rows: Array, metric: Metric) -> None:
    """Refuse queries and rows that the metric cannot measure.

    Raises:
        QueryError: `GV-311` host and device mixed, `GV-312` wrong dtypes, `GV-313` wrong width.
    """
    xp = array_namespace(queries, rows)
    if is_binary(metric):
        fits = queries.dtype == np.uint8 and rows.dtype == np.uint8
        wanted = "packed uint8"
    else:
        bits = xp is not np and rows.dtype == np.uint16  # bfloat16, see `to_device`
        fits = queries.dtype == np.float32 and (rows.dtype.type.__name__ in _DENSE_DTYPES or bits)
        wanted = "float32 (queries) and float32, float16, bfloat16, int8 or uint8 (row)"
    if not fits or queries.ndim != 2 or rows.ndim != 2:
        found = f"{queries.dtype} {queries.shape} and {rows.dtype} {rows.shape}"
        raise metric_needs(metric, found, wanted=wanted)
    if queries.shape[1] != rows.shape[1]:
        raise wrong_width(wanted=rows.shape[1], got=queries.shape[1])


def pairwise_distances(queries: Array, rows: Array, metric: Metric, *, threads: int = 1) -> Array:
    """Measure every query against every row.

    Args:
        queries: (m, dim) float32, or (m, dim / 8) packed uint8 for hamming and jaccard.
        rows: (n, dim) float32, float16, bfloat16, int8 or uint8; packed uint8 likewise.
        metric: what to measure.
        threads: of the host; 0: all cores.

    Returns:
        (m, n) float32 on the device of the input. On the host each entry is exactly what
        `paired_distances` gives; on the device it may differ by 1e-6 of the sums' size.

    Raises:
        QueryError: see `check_pair`.
    """
    check_pair(queries, rows, metric)
    if is_device_array(queries):
        from gpuvec.kernels.device_pairwise import pairwise_on_device

        return pairwise_on_device(queries, rows, metric)
    from gpuvec.kernels import host_pairwise
    from gpuvec.kernels.lanes import kernel_view

    out = np.empty((queries.shape[0], rows.shape[0]), np.float32)
    fill = host_pairwise.pairwise_bits if is_binary(metric) else host_pairwise.pairwise
    left, right, code = kernel_view(queries), kernel_view(rows), METRIC_CODES[metric]
    least = max(1, _PAIRS_PER_THREAD // max(1, queries.shape[0]))
    run_parallel(
        lambda part: fill(left, right, part[0], part[1], code, out),
        split(rows.shape[0], 64 if threads != 1 else 1, least=least),
        threads,
    )
    return out


def paired_distances(
    queries: Array,
    rows: Array,
    query_index: Array,
    row_index: Array,
    metric: Metric,
    *,
    threads: int = 1,
) -> Array:
    """Measure given pairs: the final distance of each, whatever path found it.

    Args:
        queries: see `pairwise_distances`.
        rows: see `pairwise_distances`.
        query_index: (p,) int64 into queries; runs of equal values are cheapest. Not checked.
        row_index: (p,) int64 into rows. Not checked.
        metric: what to measure.
        threads: of the host; 0: all cores.

    Returns:
        (p,) float32 on the device of the input, the same bits on host and device.

    Raises:
        QueryError: see `check_pair`.

    Cost: on one 2025 core about 80 ns a pair of 384 dimensions.
    """
    check_pair(queries, rows, metric)
    if is_device_array(queries):
        from gpuvec.kernels.device_pairwise import paired_on_device

        return paired_on_device(queries, rows, query_index, row_index, metric)
    from gpuvec.kernels import host_pairwise
    from gpuvec.kernels.lanes import kernel_view

    out = np.empty(len(query_index), np.float32)
    fill = host_pairwise.paired_bits if is_binary(metric) else host_pairwise.paired
    left, right, code = kernel_view(queries), kernel_view(rows), METRIC_CODES[metric]
    lefts = kernel_view(np.asarray(query_index, np.int64))
    rights = kernel_view(np.asarray(row_index, np.int64))

    def work(part: tuple[int, int]) -> None:
        at = slice(*part)
        fill(left, right, lefts[at], rights[at], code, out[at])

    if len(out) <= _PAIRS_PER_THREAD:
        work((0, len(out)))
        return out
    parts = split(len(out), 64 if threads != 1 else 1, least=_PAIRS_PER_THREAD)
    run_parallel(work, parts, threads)
    return out


def paired_in_numpy(
    queries: Any, rows: Any, query_index: Any, row_index: Any, metric: Metric
) -> Any:
    """Say what `paired_distances` means in NumPy: the same bits, slowly, nothing to be compiled."""
    if is_binary(metric):
        a = np.unpackbits(queries[query_index], axis=1).astype(np.int64)
        b = np.unpackbits(rows[row_index], axis=1).astype(np.int64)
        differ, union = (a ^ b).sum(axis=1), (a | b).sum(axis=1)
        if metric is Metric.HAMMING:
            return differ.astype(np.float32)
        return (differ / np.maximum(union, 1)).astype(np.float32)
    q = queries[query_index].astype(np.float64)
    r = (rows[row_index].astype(np.float32) if is_bfloat16(rows) else rows[row_index]).astype(
        np.float64
    )
    if metric is Metric.IP:
        with np.errstate(over="ignore"):
            return (0.0 - _lane_sum(q * r)).astype(np.float32)
    if metric is Metric.COSINE:
        scale = np.sqrt(_lane_sum(q * q) * _lane_sum(r * r))
        cosine = np.divide(_lane_sum(q * r), scale, out=np.zeros_like(scale), where=scale > 0)
        return np.maximum(0.0, 1.0 - cosine).astype(np.float32)
    square = _lane_sum((q - r) ** 2)
    with np.errstate(over="ignore"):
        return (np.sqrt(square) if metric is Metric.L2 else square).astype(np.float32)


def _lane_sum(terms: np.ndarray[Any, Any]) -> Any:
    """Add the columns of (p, dim) float64 terms in the order that distances are defined by."""
    lanes = 16
    count, width = terms.shape
    padded = np.zeros((count, -(-width // lanes) * lanes))
    padded[:, :width] = terms
    totals = np.zeros((count, lanes))
    for start in range(0, width, lanes):
        totals = totals + padded[:, start : start + lanes]
    while totals.shape[1] > 1:
        half = totals.shape[1] // 2
        totals = totals[:, :half] + totals[:, half:]
    return totals[:, 0]
