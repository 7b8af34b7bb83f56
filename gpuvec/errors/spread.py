"""76x: reads that the nodes of a cluster answer together."""

from gpuvec.errors.base import UnavailableError

_AGAIN = {"retryable": True, "outcome": "none"}


def read_cut_short(name: str) -> UnavailableError:
    """Return the error for a read that had given rows when its segments were rewritten."""
    return UnavailableError(
        "GV-760",
        f'the segments of "{name}" were rewritten while it was read, and some rows were given '
        "already",
        hint="read again; `collect()` begins anew by itself",
        details={"collection": name, **_AGAIN},
    )


def read_never_settled(name: str, times: int) -> UnavailableError:
    """Return the error for a read whose plan was old each time the nodes saw it."""
    return UnavailableError(
        "GV-761",
        f'the segments of "{name}" were rewritten during each of {times} attempts to read it',
        hint="read again when fewer flushes and compactions are under way",
        details={"collection": name, "attempts": times, **_AGAIN},
    )
