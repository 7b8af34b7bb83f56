"""The data coordinator: which channels to flush. It notes reports, and decides in one pure step."""

from dataclasses import dataclass

from gpuvec.messages import ChannelStatus

_MANY_WRITES = 20_000  # in the log: more would make opening slow
_MANY_DELETES = 1_000_000
_TINY_BYTES = 4 << 20  # the log replays so much in milliseconds: no reason for a small segment


@dataclass(frozen=True, slots=True)
class FlushChannel:
    """Save what a channel holds in segment files."""

    collection_id: str


class DataCoord:
    """Keeps logs short and segments large. Owns no thread or clock.

    Args:
        flush_bytes: flush a channel that holds so much.
        age_s: flush one whose oldest write is so old, unless what it holds is tiny.
    """

    def __init__(self, *, flush_bytes: int, age_s: float) -> None:
        self._flush_bytes = flush_bytes
        self._age_s = age_s
        self._seen: dict[str, tuple[ChannelStatus, float]] = {}

    def note(self, status: ChannelStatus, now_s: float) -> None:
        """Note what a channel holds; it is as old as the first report of its oldest write."""
        known = self._seen.get(status.collection_id)
        is_same = known is not None and known[0].oldest == status.oldest
        self._seen[status.collection_id] = (status, known[1] if known and is_same else now_s)

    def forget(self, collection_id: str) -> None:
        """Note that a channel is gone."""
        self._seen.pop(collection_id, None)

    def reconcile(self, now_s: float) -> list[FlushChannel]:
        """Return the flushes that are due at a monotonic time."""
        due = [
            name
            for name, (status, since_s) in sorted(self._seen.items())
            if self._is_large(status)
            or (now_s - since_s >= self._age_s and is_worth_a_segment(status))
        ]
        return [FlushChannel(name) for name in due]

    def _is_large(self, status: ChannelStatus) -> bool:
        return (
            status.growing_bytes >= self._flush_bytes
            or status.writes >= _MANY_WRITES
            or status.deletes >= _MANY_DELETES
        )


def is_worth_a_segment(status: ChannelStatus) -> bool:
    """Return whether so much is held that reading it back from the log would be felt."""
    return status.growing_bytes >= _TINY_BYTES or status.writes >= _MANY_WRITES // 20
