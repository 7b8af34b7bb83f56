"""9xx and 32x: what is not available here."""

from collections.abc import Iterable

from gpuvec.errors.base import QueryError, UnsupportedError


def package_missing(package: str, purpose: str) -> UnsupportedError:
    """Return the error for a conversion to a library that is not installed."""
    return UnsupportedError(
        "GV-930",
        f"{purpose} needs {package}, which is not installed",
        hint=f"install {package}, or use to_arrow(), which needs nothing",
        details={"package": package},
    )


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


def index_library_missing(package: str, *, extra: str) -> UnsupportedError:
    """Return the error for an index whose library is not installed."""
    return UnsupportedError(
        "GV-320",
        f"this index is built and searched by {package}, which is not installed",
        hint=f'pip install "gpuvec[{extra}]", or choose IVFInt8, which needs nothing',
        details={"package": package, "extra": extra},
    )


def index_cannot_measure(kind: str, metric: object, others: Iterable[str]) -> UnsupportedError:
    """Return the error for an index type that has no way to serve a metric."""
    names = [str(name) for name in others]
    return UnsupportedError(
        "GV-320",
        f'index type "{kind}" cannot serve metric "{metric}"',
        hint=f"it serves {', '.join(names)}; without an index every row is measured",
        details={"kind": kind, "metric": str(metric), "known": names},
    )
