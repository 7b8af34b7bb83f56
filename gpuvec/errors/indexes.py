"""61x and 62x from 614 on: wishes for indexes, and jobs that build them."""

from collections.abc import Iterable

from gpuvec.errors.base import (
    DeadlineError,
    GpuvecError,
    JobError,
    NotFoundError,
    QueryError,
    UnsupportedError,
    did_you_mean,
)


def no_sparse_index(field: str) -> UnsupportedError:
    """Return the error for an index of sparse vectors."""
    return UnsupportedError(
        "GV-614",
        f'field "{field}" holds sparse vectors, for which there is no index',
        hint="leave it without one: the exact scan serves it. "
        "Vector and BinaryVector fields can have an index",
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


def not_an_index(got: object, known: Iterable[str]) -> QueryError:
    """Return the error for an index that is neither "auto" nor a spec."""
    names = sorted(known)
    text = got.__name__ if isinstance(got, type) else str(got)
    near = {name.lower().replace("_", ""): name for name in names}
    hint = near.get(text.lower().replace("_", ""))
    if hint is None:
        hint = f'known: "auto", {", ".join(f"gv.index.{name}()" for name in names)}'
        hint += did_you_mean(text, names)
    else:
        hint = f"write gv.index.{hint}()"
    return QueryError(
        "GV-616",
        f'index must be "auto" or one of gv.index, got {got!r}',
        hint=hint,
        details={"got": got, "known": names},
    )


def build_failed(field: str, cause: BaseException) -> JobError:
    """Return the error for a build that a library, or a bug of ours, ended."""
    return JobError(
        "GV-617",
        f'the index of "{field}" could not be built: {type(cause).__name__}: {cause}',
        hint="searches of this field scan exactly meanwhile",
        details={"field": field, "cause": str(cause)},
    )


def no_such_index(field: str, known: Iterable[str]) -> NotFoundError:
    """Return the error for a field that has no index."""
    names = sorted(known)
    return NotFoundError(
        "GV-618",
        f'field "{field}" has no index',
        hint=f"fields with an index: {', '.join(names) or 'none'}",
        details={"field": field, "known": names},
    )


def vector_index_for(kind: str, field: str, type_name: str) -> QueryError:
    """Return the error for a vector index of a field that holds none."""
    return QueryError(
        "GV-619",
        f'{kind} is for vectors; field "{field}" is {type_name}',
        hint="gv.index.Bitmap() is for few different values, gv.index.Sorted() for ranges; "
        '"auto" chooses',
        details={"field": field, "index": kind, "type": type_name},
    )


def bad_target(got: object) -> QueryError:
    """Return the error for a recall that no index can be made for."""
    return QueryError(
        "GV-620",
        f"recall must be a number above 0 and below 1, got {got!r}",
        hint="an index is for recalls below 1; without one, and with exact=True, search is exact",
        details={"got": got},
    )


def bad_max_memory(got: object) -> QueryError:
    """Return the error for a max_memory that is no size."""
    return QueryError(
        "GV-621",
        f'max_memory must be a whole number of bytes, above 1, or a text such as "20GiB"; '
        f"got {got!r}",
        hint="None sets no limit",
        details={"got": got},
    )


def job_cancelled(what: str) -> JobError:
    """Return the error for waiting for a job that was cancelled, or is no longer wanted."""
    return JobError(
        "GV-622",
        f"{what} was cancelled, or replaced by another",
        hint="indexes() tells what there is",
        details={"job": what},
    )


def no_index_to_tune(field: str, why: str) -> QueryError:
    """Return the error for measuring an index that does not exist, or has nothing to measure."""
    return QueryError(
        "GV-623",
        f'field "{field}" cannot be tuned: {why}',
        hint=f'create_index("{field}") makes an index that can be',
        details={"field": field},
    )


def job_not_done(what: str, seconds: float, share: float) -> DeadlineError:
    """Return the error for a job that is not done in time."""
    return DeadlineError(
        "GV-624",
        f"{what} is {share:.0%} done after {seconds:g} s",
        hint="it goes on; wait again, or look at progress and eta",
        details={"job": what, "seconds": seconds, "progress": share},
    )


def no_queries_to_tune(field: str) -> QueryError:
    """Return the error for measuring an index with queries that are none."""
    return QueryError(
        "GV-625",
        f'an index of "{field}" cannot be measured: queries has no rows',
        hint="queries=None measures with some of the rows",
        details={"field": field},
    )


def as_build_error(field: str, error: Exception) -> GpuvecError:
    """Return what a caller who waits for an index gets to see of a build's failure."""
    return error if isinstance(error, GpuvecError) else build_failed(field, error)
