"""What gpuvec tells of itself: the only place that names a metric, and the way to spans and events.

Work is counted where it happens: `telemetry.FLUSH_SECONDS.observe(seconds)`. Whoever has figures
that cost nothing to ask for lets `METERS.watch` ask. Users find all names in `docs/monitoring.md`.
"""

from collections.abc import Callable
from typing import Any

from gpuvec.events import Event as Event
from gpuvec.events import Events
from gpuvec.meters import Counter, Gauge, Histogram, Meters
from gpuvec.tracing import bound as bound
from gpuvec.tracing import carrier as carrier
from gpuvec.tracing import continued as continued
from gpuvec.tracing import span as span

METERS = Meters()
EVENTS = Events()
note = EVENTS.note


def _counter(name: str, meaning: str, *labels: str) -> Counter:
    return Counter(METERS, name, meaning, labels)


def _histogram(name: str, meaning: str, *labels: str) -> Histogram:
    return Histogram(METERS, name, meaning, labels)


def _gauge(name: str, meaning: str, *labels: str) -> Gauge:
    return Gauge(METERS, name, meaning, labels)


# Reading, where the caller's process runs it

QUERIES = _counter(
    "gpuvec_queries_total",
    "Frames that were run, by what they did (search, read, count) and how they ended (ok, error)",
    "operation",
    "outcome",
)
QUERY_VECTORS = _counter("gpuvec_query_vectors_total", "Vectors that were searched for")
SEARCH_SECONDS = _histogram("gpuvec_search_seconds", "Time of frames that search, fetch included")
SCANNED_ROWS = _counter("gpuvec_rows_scanned_total", "Rows of the segments that frames looked at")
PRUNED_SEGMENTS = _counter(
    "gpuvec_segments_pruned_total", "Segments of which statistics spared the reading"
)
RECALL_ESTIMATE = _gauge(
    "gpuvec_recall_estimate",
    "Recall that the last search of a collection expected; 1 when it was exact",
    "collection",
)
TILE_SPLITS = _counter(
    "gpuvec_tile_splits_total",
    "Tiles of queries or rows beyond the first: work that memory cut",
    "of",
)

# Writing and upkeep, at the owner of a collection

WRITES = _counter("gpuvec_writes_total", "Writes, by how they ended: ok, error", "outcome")
WRITE_SECONDS = _histogram("gpuvec_write_seconds", "Time of a group of writes until it is durable")
WAL_APPENDS = _counter("gpuvec_wal_appends_total", "Groups of writes appended to logs")
WAL_BYTES = _counter("gpuvec_wal_bytes_total", "Bytes appended to logs")
FLUSH_SECONDS = _histogram("gpuvec_flush_seconds", "Time of flushes that saved rows in files")
FLUSH_BYTES = _counter("gpuvec_flush_bytes_total", "Bytes of segment files that flushes wrote")
BUILD_SECONDS = _histogram("gpuvec_index_build_seconds", "Time of index builds of a segment")
BUILD_FAILURES = _counter("gpuvec_index_build_failures_total", "Index builds that failed")
COMPACTION_SECONDS = _histogram("gpuvec_compaction_seconds", "Time of compactions")
COMPACTION_BYTES = _counter(
    "gpuvec_compaction_bytes_total", "Bytes of segments, read and written by them", "direction"
)
COMPACTION_FAILURES = _counter("gpuvec_compaction_failures_total", "Compactions that failed")
CHANNEL_LAG = _gauge(
    "gpuvec_channel_lag_seconds", "Age of the oldest write that is in no file", "collection"
)
GROWING_BYTES = _gauge("gpuvec_growing_bytes", "Bytes of rows that are in no file", "collection")
SEGMENTS = _gauge("gpuvec_segments", "Segments in files", "collection")
SEGMENT_BYTES = _gauge("gpuvec_segment_bytes", "Bytes of segments in files", "collection")

# Stores and memory

STORE_BYTES = _counter(
    "gpuvec_store_bytes_total", "Bytes read from and written to stores", "direction"
)
STORE_REQUESTS = _counter("gpuvec_store_requests_total", "Operations on stores", "operation")
STORE_RETRIES = _counter("gpuvec_store_retries_total", "Requests to stores that were repeated")
MEMORY_BYTES = _gauge(
    "gpuvec_memory_bytes", "Bytes held of segments and what is derived, by tier: host, disk", "tier"
)
DEVICE_BYTES = _gauge(
    "gpuvec_device_bytes",
    "Bytes of device memory in use, by device and what for: vectors, frames, bits, indexes,"
    " scratch; other: of other libraries and processes",
    "device",
    "part",
)
DEVICE_COPIES = _counter(
    "gpuvec_device_copies_total", "Copies between host and device", "direction", "purpose"
)
DEVICE_COPY_BYTES = _counter(
    "gpuvec_device_copy_bytes_total", "Bytes copied between host and device", "direction", "purpose"
)
DEVICE_SECONDS = _counter(
    "gpuvec_device_seconds_total",
    "Time of work on the device until its answer is on the host, by what for: search, load",
    "work",
)

# Jobs

JOBS = _gauge("gpuvec_jobs", "Batch jobs, by status", "status")
JOB_PARTS = _counter("gpuvec_job_parts_total", "Parts of batch jobs, by how they ended", "outcome")

# Routing, in clients of a cluster

HEDGES = _counter("gpuvec_hedges_total", "Calls sent to a second replica, the first being slow")
READ_RETRIES = _counter("gpuvec_read_retries_total", "Calls repeated at another replica")
STALE_REPLANS = _counter(
    "gpuvec_stale_replans_total", "Reads planned again, segments having changed meanwhile"
)
CACHE_HITS = _counter("gpuvec_cache_hits_total", "Answers found in a cache", "cache")
CACHE_MISSES = _counter("gpuvec_cache_misses_total", "Answers not found in a cache", "cache")
QUOTA_REFUSALS = _counter("gpuvec_quota_refusals_total", "Calls refused by a limit")

# A cluster, as its coordinator and its nodes see it

PARTS = _counter("gpuvec_parts_total", "Parts of reads that a node answered, by outcome", "outcome")
PART_SECONDS = _histogram("gpuvec_part_seconds", "Time of parts of reads at a node")
NODE_UP = _gauge("gpuvec_node_up", "1 for a node that works", "node")
NODE_QUEUE = _gauge("gpuvec_node_queue", "Calls that wait or run at a node", "node")
NODE_LATENCY = _gauge("gpuvec_node_latency_seconds", "p95 of searches of late at a node", "node")
NODE_MEMORY = _gauge(
    "gpuvec_node_memory_bytes", "Bytes of segments at a node: used, and limit", "node", "of"
)
NODE_SEGMENTS = _gauge("gpuvec_node_segments", "Segments that a node holds", "node")
UNPLACED = _gauge(
    "gpuvec_segments_missing_replicas", "Segments with fewer replicas than wanted", "database"
)
OWNED = _gauge("gpuvec_collections_owned", "Collections that a node writes", "node")
GENERATION = _gauge("gpuvec_generation", "Of the coordinator, by database", "database")
OWNER_CHANGES = _counter("gpuvec_owner_changes_total", "Collections that got another owner")


def register() -> Callable[[], None]:
    """Show this process's metrics in the default registry of prometheus_client.

    Every exporter of that registry then shows them: `prometheus_client.start_http_server(9000)`.
    In a cluster the scheduler and the workers do so by themselves. May be called again.

    Returns:
        What takes them out again.

    Raises:
        UnsupportedError: `GV-785`, prometheus_client is not installed.
    """
    from gpuvec.exposition import register_meters

    return register_meters(METERS)


def snapshot() -> list[Any]:
    """Return all readings as plain lists, to travel: name, labels, value, counts of a histogram."""
    return [
        [r.name, list(r.labels), r.value, list(r.counts)]
        for r in METERS.read()
        if r.value or any(r.counts)
    ]
