"""What a manifest keeps of a collection whose rows lie in files of others."""

from dataclasses import dataclass

from gpuvec.types import Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class External:
    """Which files, and how far back they are what they were.

    Attributes:
        pattern: a path, URL or glob; without `storage_options`, which may hold secrets.
        since: older versions had files that are not there any more.
    """

    pattern: str
    since: Timestamp
