"""Every error a user can meet: the classes, and one builder per code.

A class tells what the caller can do next; a code names the case. Codes: 1xx names and schemas,
2xx filters, 3xx queries, 4xx memory, 5xx storage, 6xx writers and availability, 7xx rights, quotas
and settings, 8xx jobs, 9xx not available here. A broken invariant is a bug and raises
`AssertionError`, never one of these.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class GpuvecError(Exception):
    """Base of all errors of gpuvec.

    Attributes:
        code: stable, `GV-nnn`.
        message: what was wanted and what came.
        hint: what to do about it; may be empty.
        details: the same facts for programs.
    """

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


class FallbackWarning(UserWarning):
    """Work that a GPU machine had to do on its CPU."""


class CastWarning(UserWarning):
    """Digits were lost in a conversion."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean "x"?`, or nothing when no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f' Did you mean "{near[0]}"?' if near else ""


# 1xx: names and schemas


def unknown_field(name: str, known: Iterable[str], *, where: str = "the schema") -> NotFoundError:
    """Return the error for a field that does not exist, with the nearest name."""
    names = list(known)
    return NotFoundError(
        "GV-104",
        f'no field "{name}" in {where}.{did_you_mean(name, names)}',
        hint=f"fields: {', '.join(names)}",
        details={"field": name, "known": names},
    )


def wrong_dimension(field: str, *, wanted: int, got: int, where: str = "") -> SchemaError:
    """Return the error for query vectors of another dimension than their field."""
    place = f' of "{where}"' if where else ""
    return SchemaError(
        "GV-113",
        f'queries have {got} dimensions; field "{field}"{place} has {wanted}',
        hint="embed the queries with the model that filled the field",
        details={"field": field, "wanted": wanted, "got": got},
    )


# 2xx: filters


# 3xx: queries


def bad_k(k: object) -> QueryError:
    """Return the error for a number of neighbours that is not a positive integer."""
    return QueryError(
        "GV-310",
        f"k must be an integer of at least 1, got {k!r}",
        hint="to get every row within a distance, give a radius and no k",
        details={"k": k},
    )


def mixed_devices() -> QueryError:
    """Return the error for host and device arrays in one call."""
    return QueryError(
        "GV-311",
        "arrays must lie all in host memory or all on the GPU; got both",
        hint="bring them together with to_device() or to_host()",
    )


def metric_needs(metric: str, dtype: object, *, wanted: str) -> QueryError:
    """Return the error for a metric over vectors of a kind that it does not measure."""
    return QueryError(
        "GV-312",
        f'metric "{metric}" measures {wanted} vectors; these are {dtype}',
        hint="choose hamming or jaccard for packed bits; cosine, l2, sqeuclidean or ip for numbers",
        details={"metric": str(metric), "dtype": str(dtype)},
    )


def wrong_width(*, wanted: int, got: int) -> QueryError:
    """Return the error for queries and rows whose arrays have different widths."""
    return QueryError(
        "GV-313",
        f"queries have {got} columns, rows have {wanted}",
        hint="both must come from the same model, packed alike",
        details={"wanted": wanted, "got": got},
    )


def wrong_length(what: str, *, wanted: int, got: int) -> QueryError:
    """Return the error for a mask, rank or bound that is not as long as what it goes with."""
    return QueryError(
        "GV-314",
        f"{what} must have {wanted} entries, got {got}",
        details={"what": what, "wanted": wanted, "got": got},
    )


def unknown_index(kind: object, known: Iterable[str]) -> QueryError:
    """Return the error for an index type that does not exist, with the nearest name."""
    names = sorted(known)
    return QueryError(
        "GV-315",
        f'no index type "{kind}".{did_you_mean(str(kind), names)}',
        hint=f"index types: {', '.join(names)}",
        details={"kind": kind, "known": names},
    )


# 4xx: memory


def device_memory_exceeded(
    what: str, *, needed: int, free: int, parts: Mapping[str, int], where: str
) -> DeviceMemoryError:
    """Return the error for work that does not fit into a memory budget, with who holds what."""
    held = ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in parts.items())
    return DeviceMemoryError(
        "GV-400",
        f"{what} needs {needed / 2**20:,.1f} MiB of {where} memory; "
        f"{free / 2**20:,.1f} MiB of the budget are free" + (f" (held: {held})" if held else ""),
        hint="raise the memory limit, close other databases or results, search fewer queries at "
        "once, or choose float16 or int8 vectors",
        details={"what": what, "needed": needed, "free": free, "parts": dict(parts)},
    )


# 5xx: storage


# 6xx: writers and availability


# 7xx: rights, quotas, settings


def unknown_setting(key: str, known: Iterable[str], *, where: str = "") -> NotFoundError:
    """Return the error for a setting that does not exist, with the nearest name."""
    names = sorted(known)
    place = f" (in {where})" if where else ""
    return NotFoundError(
        "GV-701",
        f'no setting "{key}"{place}.{did_you_mean(key, names)}',
        hint=f"settings: {', '.join(names)}",
        details={"setting": key, "known": names},
    )


def bad_setting(key: str, got: object, wanted: str, *, where: str) -> QueryError:
    """Return the error for a setting whose value is of the wrong kind."""
    return QueryError(
        "GV-702",
        f'setting "{key}" cannot be {got!r}: {wanted}',
        hint=f"it came from {where}",
        details={"setting": key, "got": got},
    )


def no_such_file(path: str, *, what: str) -> NotFoundError:
    """Return the error for a file, glob or database that is not there."""
    return NotFoundError("GV-703", f"no {what} at {path}", details={"path": path})


def not_a_collection_path(target: str) -> QueryError:
    """Return the error for a command-line target that names no collection."""
    return QueryError(
        "GV-704",
        f'"{target}" names no collection',
        hint="wanted: database path, slash, collection: ./shop/items",
    )


def unknown_file_kind(path: str, known: Iterable[str]) -> QueryError:
    """Return the error for a file whose ending is not understood."""
    return QueryError("GV-705", f"cannot read {path}", hint=f"endings: {', '.join(known)}")


# 9xx: not available here


def no_gpu(reason: str) -> UnsupportedError:
    """Return the error for `device="gpu"` where no GPU can be used."""
    return UnsupportedError(
        "GV-900",
        f'device="gpu" was asked for, but {reason}',
        hint='use device="auto" to take a GPU only where there is one, or run `nvidia-smi` and '
        "check the driver and CUDA_VISIBLE_DEVICES",
        details={"reason": reason},
    )


def gpu_package_missing(package: str) -> UnsupportedError:
    """Return the error for GPU work without the Python package that it needs."""
    return UnsupportedError(
        "GV-901",
        f'GPU work needs the package "{package}", which is not installed',
        hint='pip install "gpuvec[gpu-cu12]" (CUDA 12) or "gpuvec[gpu-cu13]" (CUDA 13)',
        details={"package": package},
    )


def unknown_device(device: object) -> QueryError:
    """Return the error for a device name that does not exist."""
    return QueryError(
        "GV-902",
        f'device must be "auto", "cpu" or "gpu"; got {device!r}',
        details={"device": device},
    )
