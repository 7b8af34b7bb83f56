"""Errors of metrics, dashboards and the like."""

from gpuvec.errors.base import UnsupportedError


def no_prometheus() -> UnsupportedError:
    """Return the error for metrics without the library that shows them."""
    return UnsupportedError(
        "GV-785",
        "prometheus_client is not installed, and shows metrics",
        hint="pip install prometheus-client",
    )
