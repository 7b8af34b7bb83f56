"""76x: calls to the nodes of a cluster that nobody answers, and limits of what clients may ask."""

from collections.abc import Sequence

from gpuvec.errors.base import GpuvecError, QuotaError, UnavailableError


def _because(cause: BaseException | None) -> str:
    if cause is None:
        return ""
    text = f"[{cause.code}] {cause.message}" if isinstance(cause, GpuvecError) else str(cause)
    return f"; the last answer was: {text}"


def owner_unreachable(
    collection: str, seconds: float, cause: BaseException | None, *, outcome: str, request: str = ""
) -> UnavailableError:
    """Return the error for a call that no owner of a collection answered.

    Args:
        collection: its name or id.
        seconds: for which it was tried.
        cause: how the last attempt ended.
        outcome: `none`, or `unknown` if an attempt may have arrived.
        request: the id with which a write may be sent again.
    """
    return UnavailableError(
        "GV-766",
        f'no owner of collection "{collection}" answered within {seconds:.1f} s{_because(cause)}',
        hint="reading goes on. Retry when the cluster has a node that can write"
        if outcome == "none"
        else "it may have been done all the same: look before you write again",
        details={
            "collection": collection,
            "seconds": seconds,
            "request_id": request,
            "retryable": True,
            "outcome": outcome,
        },
    )


def read_incomplete(
    collection: str, missing: Sequence[str], seconds: float, cause: BaseException | None
) -> UnavailableError:
    """Return the error for a read of which some parts were answered for by no node."""
    shown = f"{', '.join(missing[:5])}{', …' if len(missing) > 5 else ''}"
    return UnavailableError(
        "GV-767",
        f'no node answered for {len(missing)} parts of collection "{collection}" ({shown}) '
        f"within {seconds:.1f} s{_because(cause)}",
        hint="retry; the settings cluster.wait_s and cluster.search_deadline_s say how long a read "
        "waits. The dashboard shows which nodes live",
        details={
            "collection": collection,
            "missing": list(missing),
            "seconds": seconds,
            "retryable": True,
            "outcome": "none",
        },
    )


def rate_exceeded(what: str, rate: float, retry_after_s: float) -> QuotaError:
    """Return the error for more of something than a client may have in a second."""
    return QuotaError(
        "GV-768",
        f"more than {rate:g} {what} per second; this call was not begun",
        hint=f"retry after {retry_after_s:.3g} s",
        details={
            "what": what,
            "rate": rate,
            "retry_after_s": retry_after_s,
            "retryable": True,
            "outcome": "none",
        },
    )
