"""The classes of errors that users can meet; the modules beside this one build them, by code.

A class tells what the caller can do next; a code names the case. Codes: 1xx names, schemas and
rows, 2xx filters, 3xx queries, 4xx memory, 5xx storage, 6xx writers and availability, 7xx rights,
quotas and settings, 8xx jobs, 9xx not available here. A broken invariant is a bug and raises
`AssertionError`, never one of these.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

_PUBLIC_HOME = "gpuvec"  # where users find the classes: tracebacks and pickles name it


class GpuvecError(Exception):
    """Base of all errors of gpuvec.

    Attributes:
        code: stable, `GV-nnn`.
        message: what was wanted and what came.
        hint: what to do about it; may be empty.
        details: the same facts for programs.
    """

    __module__ = _PUBLIC_HOME

    def __init_subclass__(cls) -> None:
        if cls.__module__ == __name__:
            cls.__module__ = _PUBLIC_HOME

    def __init__(
        self, code: str, message: str, *, hint: str = "", details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.details: dict[str, Any] = dict(details or {})

    def __str__(self) -> str:
        text = f"[{self.code}] {self.message}"
        return f"{text}\n  {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.code, self.message, self.hint, self.details))


def _rebuild(
    cls: type[GpuvecError], code: str, message: str, hint: str, details: dict[str, Any]
) -> GpuvecError:
    return cls(code, message, hint=hint, details=details)


class NotFoundError(GpuvecError, LookupError):
    """A collection, field, partition, index or version that does not exist."""


class AlreadyExistsError(GpuvecError, ValueError):
    """Creating something whose name is taken."""


class SchemaError(GpuvecError, ValueError):
    """A type, null, dimension or key that the schema does not allow."""


class FilterError(GpuvecError, ValueError):
    """Syntax or type error in a filter."""


class QueryError(GpuvecError, ValueError):
    """Contradictory or impossible options."""


class DeviceMemoryError(GpuvecError, MemoryError):
    """Work that cannot be tiled any further into the memory budget."""


class ResultTooLargeError(GpuvecError, MemoryError):
    """An answer larger than host memory."""


class ConflictError(GpuvecError, RuntimeError):
    """Two writers touched the same rows."""


class StorageError(GpuvecError, OSError):
    """The store is unreachable or refuses."""


class CorruptError(StorageError):
    """A damaged or missing file."""


class UnavailableError(GpuvecError, ConnectionError):
    """No owner or node answers. `details` has `retryable` and `outcome`: `none` or `unknown`."""


class DeadlineError(GpuvecError, TimeoutError):
    """The call's deadline passed."""


class SnapshotExpiredError(GpuvecError, LookupError):
    """A version older than retention."""


class QuotaError(GpuvecError, RuntimeError):
    """A limit was reached."""


class AccessDeniedError(GpuvecError, PermissionError):
    """The caller may not do this."""


class JobError(GpuvecError, RuntimeError):
    """A job failed."""


class UnsupportedError(GpuvecError, NotImplementedError):
    """Not available here."""


class RecallWarning(UserWarning):
    """A recall target that no setting reached."""

    __module__ = _PUBLIC_HOME


class CacheWarning(UserWarning):
    """A disk cache that cannot be used: files of buckets are read again when they are needed."""

    __module__ = _PUBLIC_HOME


class FallbackWarning(UserWarning):
    """Work that a GPU machine had to do on its CPU."""

    __module__ = _PUBLIC_HOME


class CastWarning(UserWarning):
    """Digits were lost in a conversion."""

    __module__ = _PUBLIC_HOME


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean "x"?`, or nothing when no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f' Did you mean "{near[0]}"?' if near else ""
