"""Work that a GPU machine leaves to its CPU, said once for each operation."""

import warnings

from gpuvec.errors import FallbackWarning

_said: set[str] = set()


def fall_back(operation: str, reason: str) -> None:
    """Warn, once in this process for each operation, that the host does it.

    Args:
        operation: what the host does, a sentence's subject: `the filter operation upper()`.
        reason: why, and what to do.
    """
    if operation not in _said:
        _said.add(operation)
        warnings.warn(f"{operation} runs on the CPU: {reason}", FallbackWarning, stacklevel=2)


def forget() -> None:
    """Say everything once more."""
    _said.clear()
