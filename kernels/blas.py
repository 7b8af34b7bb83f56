"""Keeps BLAS to one thread where compiled bodies run on threads of their own."""

from functools import cache
from typing import Any


@cache
def _libraries() -> Any:
    """Return the process's BLAS libraries, found once: it takes milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def one_blas_thread() -> Any:
    """Return a context in which BLAS starts no threads: they would spin on the cores of ours."""
    return _libraries().limit(limits=1, user_api="blas")
