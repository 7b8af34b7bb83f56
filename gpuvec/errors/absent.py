"""9xx: what is not available here."""

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
