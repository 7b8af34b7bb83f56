"""What a coordinator tells, made up: some of everything that pages show."""

from typing import Any

MIB = 1 << 20


def sample_state(
    segments: int = 40, nodes: int = 4, *, lacking: int = 0, now_ms: int = 1_700_000_000_000
) -> dict[str, Any]:
    """Return the state of a cluster with this many segments of three collections.

    Args:
        segments: in files.
        nodes: that work; none: no node has reported.
        lacking: segments that one node holds, where two are wanted.
        now_ms: the oldest write that is in no file came 12 seconds before.
    """
    names = [f"worker-{number}" for number in range(nodes)]
    collections = ["01A", "01B", "01C"]
    held: list[tuple[str, str, int, int, list[str], int]] = [
        (
            collections[number % 7 % 3],
            f"01SEGMENT{number:05}",
            10_000 + 37 * number,
            (4 + number % 5) * MIB,
            _holders(names, number, 1 if number < lacking else 2),
            2,
        )
        for number in range(segments)
    ]
    return {
        "ready": nodes > 0,
        "reason": "" if nodes else "no node has reported",
        "nodes": {
            name: {
                "incarnation": f"{number:08x}",
                "address": f"tcp://10.0.0.{number + 1}:40000",
                "host": f"host-{number // 2}",
                "memory_bytes": 512 * MIB,
                "memory_used": sum(size for *_, size, on, _ in held if name in on),
                "queue": number,
                "latency_s": 0.0042 * (number + 1),
                "usable": True,
                "draining": number == 3,
            }
            for number, name in enumerate(names)
        },
        "databases": {
            "s3://embeddings": {
                "url": "s3://embeddings",
                "generation": 7,
                "recovered": True,
                "epoch": 120,
                "collections": {
                    "01A": {
                        "name": "papers",
                        "owner": names[0] if names else None,
                        "term": 3,
                        "growing_bytes": 3 * MIB,
                        "oldest_ms": now_ms - 12_000,
                        "indexes": [_index("embedding", "IVFInt8(lists=1024)", 0.961, 0.957)],
                    },
                    "01B": {
                        "name": "authors",
                        "owner": names[-1] if names else None,
                        "term": 1,
                        "indexes": [
                            _index("embedding", "HNSW(m=32)", 0.993, 0.990),
                            _index("title", "auto", None, None),
                        ],
                    },
                    "01C": {"name": "drafts", "owner": None, "term": 0},
                },
                "segments": held,
                "jobs": [
                    _job("01JOB1", "search of papers", "done", 1.0),
                    _job("01JOB2", "search of authors", "running", 0.4),
                ],
            }
        },
    }


def _holders(names: list[str], number: int, count: int) -> list[str]:
    return [names[(number + step) % len(names)] for step in range(min(count, len(names)))]


def _index(field: str, kind: str, recall: float | None, low: float | None) -> dict[str, Any]:
    return {
        "field": field,
        "kind": kind,
        "target": 0.95,
        "recall": recall,
        "recall_low": low,
        "segments": 0 if recall is None else 12,
        "waiting": 3 if recall is None else 0,
        "bytes": 9 * MIB,
    }


def _job(job_id: str, what: str, status: str, progress: float) -> dict[str, Any]:
    return {
        "id": job_id,
        "what": what,
        "status": status,
        "progress": progress,
        "eta_s": None if status == "done" else 95.0,
        "parts": 10,
        "parts_done": int(10 * progress),
    }
