"""What the coordinator tells of itself, as tables that people read. Knows neither Dask nor Bokeh.

The coordinator's `state()` is a dict of plain values, made from memory:

* `ready`, `reason`: whether it serves, and why not;
* `nodes`: by name `incarnation, address, host, group, memory_bytes, memory_used, queue, latency_s,
  usable, draining, threads`;
* `databases`: by identity `url, generation, recovered, epoch, collections, segments, jobs`, where
  `collections` are by id `name, owner, term, growing_bytes, oldest_ms, indexes`, `segments` rows of
  `collection id, segment id, rows, bytes, nodes that hold it, replicas wanted`, and `jobs` dicts of
  `id, what, status, progress, eta_s, parts, parts_done`.

What is missing is shown as empty: a page must never fail while a cluster starts or mends itself.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

from gpuvec.clock import SystemClock

State = Mapping[str, Any]
Kind = Literal["text", "count", "bytes", "seconds", "share", "recall"]
FRESH_S = 0.4  # so long one state serves all pages that are open
MOST_LINES = 2000  # of one table

_sources: WeakKeyDictionary[Any, "_Source"] = WeakKeyDictionary()


class _Source:
    """The state of one scheduler's coordinator, asked for at most every `FRESH_S`."""

    def __init__(self, ask: Callable[[], State]) -> None:
        self._ask = ask
        self._known: State = {}
        self._asked_s = float("-inf")

    def state(self) -> State:
        now_s = time.monotonic()
        if now_s - self._asked_s > FRESH_S:
            self._known, self._asked_s = self._ask(), now_s
        return self._known


def tell_state(scheduler: Any, ask: Callable[[], State] | None) -> None:
    """Let pages of a scheduler ask for its coordinator's state; None: there is none any more."""
    if ask is None:
        _sources.pop(scheduler, None)
    else:
        _sources[scheduler] = _Source(ask)


def state_of(scheduler: Any) -> State:
    """Return the state of a scheduler's coordinator; empty while there is none."""
    source = _sources.get(scheduler)
    return {} if source is None else source.state()


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: the key in its lines, its heading, and what its values are."""

    key: str
    heading: str
    kind: Kind = "text"
    width: int = 90


Line = dict[str, Any]


def columns(*described: tuple[Any, ...]) -> tuple[Column, ...]:
    """Return columns of key, heading, kind and width."""
    return tuple(Column(*values) for values in described)


# Collections

COLLECTIONS = columns(
    ("database", "Database", "text", 180),
    ("collection", "Collection", "text", 160),
    ("rows", "Rows in files", "count"),
    ("segments", "Segments", "count", 70),
    ("bytes", "Size", "bytes"),
    ("growing", "In the log only", "bytes"),
    ("age_s", "Oldest of it", "seconds"),
    ("missing", "Missing replicas", "count"),
    ("owner", "Written by", "text", 120),
    ("indexes", "Indexes", "text", 260),
)


def _now_ms() -> int:
    return SystemClock().now_ms()


def collection_lines(state: State) -> list[Line]:
    """Return a line for each collection, largest first."""
    now_ms, found = _now_ms(), []
    for database, known in _databases(state):
        rows: Counter[str] = Counter()
        size: Counter[str] = Counter()
        count: Counter[str] = Counter()
        missing: Counter[str] = Counter()
        for collection_id, _, segment_rows, segment_bytes, nodes, wanted in _segments(known):
            rows[collection_id] += segment_rows
            size[collection_id] += segment_bytes
            count[collection_id] += 1
            missing[collection_id] += max(0, wanted - len(nodes))
        for collection_id, about in (known.get("collections") or {}).items():
            oldest = about.get("oldest_ms")
            found.append(
                {
                    "database": database,
                    "collection": about.get("name") or collection_id,
                    "rows": rows[collection_id],
                    "segments": count[collection_id],
                    "bytes": size[collection_id],
                    "growing": about.get("growing_bytes") or 0,
                    "age_s": None if oldest is None else max(0.0, (now_ms - oldest) / 1000),
                    "missing": missing[collection_id],
                    "owner": about.get("owner") or "nobody yet",
                    "indexes": ", ".join(map(_index_text, about.get("indexes") or ())),
                }
            )
    return sorted(found, key=lambda line: (-line["bytes"], line["collection"]))


def _index_text(index: Mapping[str, Any]) -> str:
    recall = index.get("recall")
    return f"{index['field']}: {index['kind']}" + ("" if recall is None else f" {recall:.3f}")


# Segments

SEGMENTS = columns(
    ("collection", "Collection", "text", 160),
    ("segment", "Segment", "text", 240),
    ("rows", "Rows", "count"),
    ("bytes", "Size", "bytes"),
    ("replicas", "Replicas", "text", 80),
    ("nodes", "Held by", "text", 320),
)


def segment_lines(state: State) -> list[Line]:
    """Return a line for each segment: those that lack replicas first, then the largest."""
    found = []
    for _, known in _databases(state):
        names = {key: a.get("name") or key for key, a in (known.get("collections") or {}).items()}
        for collection_id, segment_id, rows, size, nodes, wanted in _segments(known):
            found.append(
                {
                    "collection": names.get(collection_id, collection_id),
                    "segment": segment_id,
                    "rows": rows,
                    "bytes": size,
                    "replicas": f"{len(nodes)} of {wanted}",
                    "nodes": ", ".join(nodes),
                    "lacks": max(0, wanted - len(nodes)),
                }
            )
    found.sort(key=lambda line: (-line["lacks"], -line["bytes"], line["segment"]))
    return found


def held_bytes(state: State) -> dict[str, int]:
    """Return the bytes of segments that each node holds; nodes that hold none among them."""
    found: defaultdict[str, int] = defaultdict(int, dict.fromkeys(state.get("nodes") or {}, 0))
    for _, known in _databases(state):
        for _, _, _, size, nodes, _ in _segments(known):
            for node in nodes:
                found[node] += size
    return dict(found)


def missing_replicas(state: State) -> dict[str, int]:
    """Return by database how many segments have fewer replicas than are wanted."""
    return {
        identity: sum(len(nodes) < wanted for *_, nodes, wanted in _segments(known))
        for identity, known in (state.get("databases") or {}).items()
    }


# Nodes

NODES = columns(
    ("node", "Node", "text", 140),
    ("host", "Host", "text", 120),
    ("status", "Status", "text", 100),
    ("memory_used", "Segments in memory", "bytes", 120),
    ("memory_bytes", "Limit", "bytes"),
    ("segments", "Segments", "count", 70),
    ("owned", "Collections written", "count", 110),
    ("queue", "Calls", "count", 60),
    ("latency_s", "p95 of searches", "seconds", 100),
    ("address", "Address", "text", 200),
)


def node_lines(state: State) -> list[Line]:
    """Return a line for each node, by name."""
    owned: Counter[str] = Counter()
    segments: Counter[str] = Counter()
    for _, known in _databases(state):
        owned.update(a.get("owner") for a in (known.get("collections") or {}).values())
        for *_, nodes, _ in _segments(known):
            segments.update(nodes)
    return [
        {
            "node": name,
            "host": about.get("host", ""),
            "status": _status(about),
            "memory_used": about.get("memory_used") or 0,
            "memory_bytes": about.get("memory_bytes") or 0,
            "segments": segments[name],
            "owned": owned[name],
            "queue": about.get("queue") or 0,
            "latency_s": about.get("latency_s") or None,
            "address": about.get("address", ""),
        }
        for name, about in sorted((state.get("nodes") or {}).items())
    ]


def _status(node: Mapping[str, Any]) -> str:
    if not node.get("usable", True):
        return "another protocol"
    return "leaving" if node.get("draining") else "works"


# Jobs

JOBS = columns(
    ("id", "Job", "text", 220),
    ("what", "What", "text", 240),
    ("status", "Status", "text", 80),
    ("progress", "Done", "share", 60),
    ("parts", "Parts", "text", 90),
    ("eta_s", "Time left", "seconds"),
)


def job_lines(state: State) -> list[Line]:
    """Return a line for each batch job: those that run first, then the newest."""
    found = [
        {
            "id": job["id"],
            "what": job.get("what", ""),
            "status": job.get("status", ""),
            "progress": job.get("progress") or 0.0,
            "parts": f"{job.get('parts_done', 0):,} of {job.get('parts', 0):,}",
            "eta_s": job.get("eta_s"),
        }
        for _, known in _databases(state)
        for job in known.get("jobs") or ()
    ]
    found.sort(key=lambda line: line["id"], reverse=True)
    return sorted(found, key=lambda line: line["status"] != "running")


# Recall

RECALL = columns(
    ("index", "Index", "text", 220),
    ("kind", "Kind", "text", 260),
    ("recall", "Recall", "recall", 70),
    ("low", "With 95 % not below", "recall", 120),
    ("target", "Wanted", "recall", 70),
    ("segments", "Segments with it", "count", 110),
    ("waiting", "Waiting", "count", 70),
    ("bytes", "Size", "bytes"),
)


def recall_lines(state: State) -> list[Line]:
    """Return a line for each index that was measured or is being built, lowest recall first."""
    found = [
        {
            "index": f"{about.get('name') or collection_id}.{index['field']}",
            "kind": index.get("kind", ""),
            "recall": index.get("recall"),
            "low": index.get("recall_low"),
            "target": index.get("target"),
            "segments": index.get("segments") or 0,
            "waiting": index.get("waiting") or 0,
            "bytes": index.get("bytes") or 0,
        }
        for _, known in _databases(state)
        for collection_id, about in (known.get("collections") or {}).items()
        for index in about.get("indexes") or ()
    ]
    return sorted(found, key=lambda line: (line["recall"] or 2.0, line["index"]))


def summary(state: State) -> str:
    """Return the whole cluster in a line."""
    if not state:
        return "gpuvec has not started yet"
    if not state.get("ready", True):
        return f"gpuvec is not ready: {state.get('reason') or 'it is starting'}"
    databases = list(_databases(state))
    segments = [segment for _, known in databases for segment in _segments(known)]
    lacking = sum(len(nodes) < wanted for *_, nodes, wanted in segments)
    collections = sum(len(known.get("collections") or {}) for _, known in databases)
    texts = [
        _nodes(state),
        _counted(len(databases), "open database"),
        _counted(collections, "collection"),
        _counted(len(segments), "segment"),
    ]
    if lacking:
        texts.append(f"{lacking:,} with fewer replicas than wanted")
    return " · ".join(texts)


def _nodes(state: State) -> str:
    """Return how many nodes there are, and of how many, where that is known."""
    count, wanted = len(state.get("nodes") or {}), state.get("workers_wanted") or 0
    return f"{count:,} of {wanted:,} nodes" if count < wanted else _counted(count, "node")


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _databases(state: State) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the databases, under the URL that people know."""
    for identity, known in (state.get("databases") or {}).items():
        yield known.get("url") or identity, known


def _segments(database: Mapping[str, Any]) -> list[tuple[str, str, int, int, list[str], int]]:
    found: list[tuple[str, str, int, int, list[str], int]] = database.get("segments") or []
    return found
