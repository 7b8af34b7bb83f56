"""What a node tells the coordinator of itself, again and again."""

from collections.abc import Mapping

from gpuvec.cluster.node_engine import NodeEngine
from gpuvec.cluster_messages import NodeReport
from gpuvec.types import NodeId


def report_of(
    node: NodeId,
    incarnation: str,
    engines: Mapping[str, NodeEngine],
    *,
    queue: int = 0,
    latency_s: float = 0.0,
) -> NodeReport:
    """Return what a node tells the coordinator.

    Args:
        node: who it is.
        incarnation: since when.
        engines: by identity of the database.
        queue: calls that wait or run.
        latency_s: p95 of searches of late.
    """
    entries = {
        identity: {c.collection_id: c.channels[0].entry_id for c in engine.writable()}
        for identity, engine in engines.items()
    }
    return NodeReport(
        node=node,
        incarnation=incarnation,
        held={identity: engine.held for identity, engine in engines.items()},
        owned={identity: engine.grants.terms() for identity, engine in engines.items()},
        statuses={
            identity: tuple(c.status() for c in engine.writable())
            for identity, engine in engines.items()
        },
        entries=entries,
        memory_used=sum(engine.memory_used for engine in engines.values()),
        queue=queue,
        latency_s=latency_s,
        works={identity: tuple(engine.works.lines()) for identity, engine in engines.items()},
        newest={identity: engine.oracle.last for identity, engine in engines.items()},
    )
