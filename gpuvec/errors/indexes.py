"""44x, 61x, 62x: wishes for indexes, and builds that failed."""

from gpuvec.errors.base import (
    JobError,
    UnsupportedError,
)


def no_sparse_index(field: str) -> UnsupportedError:
    """Return the error for an index of sparse vectors."""
    return UnsupportedError(
        "GV-614",
        f'field "{field}" holds sparse vectors, for which there is no index',
        hint="leave it without one: the exact scan serves it",
        details={"field": field},
    )


def index_not_built(field: str, segment: str) -> JobError:
    """Return the error for a build that ended without an index and without another error."""
    return JobError(
        "GV-615",
        f'the index of "{field}" was not added to segment {segment}: it is not open here',
        hint="it is tried again when the collection is next written to",
        details={"field": field, "segment": segment},
    )
