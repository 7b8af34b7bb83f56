"""What coordinators want done: a message, and the process that it is for."""

from dataclasses import dataclass

from gpuvec.cluster_messages import Disown, LoadSegments, Own, ReleaseSegments
from gpuvec.types import NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A message that the host sends, and tells how that went; a command may be sent twice."""

    node: NodeId
    incarnation: str
    message: Own | Disown | LoadSegments | ReleaseSegments
