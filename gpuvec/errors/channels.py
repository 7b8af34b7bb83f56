"""Errors of collections with several channels."""

from gpuvec.errors.base import QueryError, UnavailableError, UnsupportedError


def part_not_logged(channel: str, cause: BaseException) -> UnavailableError:
    """Return the error for a write of which one channel could not take its part."""
    return UnavailableError(
        "GV-650",
        f"channel {channel} could not log its part of the write: {cause}",
        hint="a retry with the same request id is safe",
        details={"channel": channel, "retryable": True, "outcome": "none"},
    )


def bad_channel_count(got: object, most: int) -> QueryError:
    """Return the error for a number of channels that a collection cannot have."""
    return QueryError(
        "GV-651",
        f"channels must be a whole number from 1 to {most}, got {got!r}",
        hint="1 is right for one process; more share the writing among several",
        details={"got": repr(got), "most": most},
    )


def another_channel_count(name: str, *, wanted: int, got: int) -> QueryError:
    """Return the error for `exist_ok=True` where the collection has another number of channels."""
    return QueryError(
        "GV-653",
        f'collection "{name}" exists and has {got} channels, not {wanted}',
        hint="leave channels out: their number is fixed when a collection is created",
        details={"collection": name, "wanted": wanted, "got": got},
    )


def not_with_channels(what: str, channels: int) -> UnsupportedError:
    """Return the error for what a collection with several channels cannot do."""
    return UnsupportedError(
        "GV-652",
        f"{what} is not available for a collection with {channels} channels",
        hint="leave channels out, or make a collection of its own and bulk_import the files",
        details={"what": what, "channels": channels},
    )
