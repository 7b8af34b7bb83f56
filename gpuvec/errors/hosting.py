"""74x and 75x: clusters that host a database, and the way to their nodes."""

from gpuvec.errors.base import QueryError, QuotaError, UnavailableError, UnsupportedError

_START = "gpuvec cluster start, or dask scheduler --preload gpuvec.cluster.preload"


def not_shared(where: str) -> UnsupportedError:
    """Return the error for a database that lives in one process, on a cluster of many."""
    return UnsupportedError(
        "GV-740",
        f"{where} lies in the memory of this process; the workers of a cluster cannot see it",
        hint="use a directory that all hosts share, or a bucket; or leave cluster out",
        details={"path": where},
    )


def bad_cluster(got: object) -> QueryError:
    """Return the error for a `cluster=` that is none."""
    return QueryError(
        "GV-742",
        f"cluster is {got!r}",
        hint='give "local", the address of a scheduler ("tcp://host:8786"), a '
        "dask.distributed.Client or a cluster object",
        details={"cluster": repr(got)},
    )


def no_coordinator(address: str) -> UnavailableError:
    """Return the error for a scheduler without gpuvec's coordinator."""
    return UnavailableError(
        "GV-743",
        f"the Dask scheduler at {address} runs without gpuvec's coordinator",
        hint=f"start it with: {_START}",
        details={"address": address, "retryable": False, "outcome": "none"},
    )


def no_scheduler(address: str, cause: str) -> UnavailableError:
    """Return the error for a scheduler that does not answer."""
    return UnavailableError(
        "GV-744",
        f"no Dask scheduler answers at {address}: {cause}",
        hint=f"check the address and the network, or start one: {_START}",
        details={"address": address, "retryable": True, "outcome": "none"},
    )


def no_workers() -> UnavailableError:
    """Return the error for a cluster in which only the scheduler runs."""
    return UnavailableError(
        "GV-759",
        "the cluster has no workers",
        hint="start some: gpuvec cluster start --worker tcp://<scheduler>:8786",
        details={"retryable": True, "outcome": "none"},
    )


def cluster_ended(why: str) -> UnavailableError:
    """Return the error for a cluster of this machine that ended by itself."""
    return UnavailableError(
        "GV-758",
        f"the cluster ended: {why}",
        hint="start it again; a service manager does so by itself",
        details={"retryable": True, "outcome": "none"},
    )


def tls_without_certificates(address: str) -> UnavailableError:
    """Return the error for a cluster with TLS, of a client that holds no certificate."""
    return UnavailableError(
        "GV-757",
        f"{address} wants TLS, and this process was given no certificates",
        hint="set DASK_CONFIG to the folder that `gpuvec cluster certs` made before Dask is "
        "imported, or give a dask.distributed.Client with its security",
        details={"address": address, "retryable": False, "outcome": "none"},
    )


def no_service(node: str, address: str) -> UnavailableError:
    """Return the error for a Dask process that gpuvec is not, or not yet, at home in."""
    return UnavailableError(
        "GV-750",
        f'"{node}" at {address} does not know gpuvec',
        hint=f"it may be starting. Schedulers are started with: {_START}",
        details={"node": node, "address": address, "retryable": True, "outcome": "none"},
    )


def connection_lost(node: str, cause: str) -> UnavailableError:
    """Return the error for a connection that broke while an answer was awaited."""
    return UnavailableError(
        "GV-751",
        f'the connection to "{node}" broke before it answered: {cause}',
        hint="it may have been done all the same: look before you do it again",
        details={"node": node, "retryable": True, "outcome": "unknown"},
    )


def not_served(node: str, message: str) -> UnsupportedError:
    """Return the error for a message that a host has no function for."""
    return UnsupportedError(
        "GV-752",
        f'"{node}" does not answer {message}',
        hint="run the same version of gpuvec in all processes of a cluster",
        details={"node": node, "message": message},
    )


def too_busy(node: str, waiting: int) -> QuotaError:
    """Return the error for a call to a host where too many wait already."""
    return QuotaError(
        "GV-753",
        f'{waiting} calls wait at "{node}" already; this one was not begun',
        hint="retry later, or add workers",
        details={"node": node, "waiting": waiting, "retryable": True, "outcome": "none"},
    )


def not_hosted(identity: str) -> UnavailableError:
    """Return the error for a database that this coordinator, or this node, has not open."""
    return UnavailableError(
        "GV-754",
        f"the database {identity} is not open here",
        hint="clients open it again by themselves within seconds after a restart",
        details={"identity": identity, "retryable": True, "outcome": "none"},
    )


def cluster_not_started(cause: str) -> UnavailableError:
    """Return the error for workers that did not come up."""
    return UnavailableError(
        "GV-755",
        f"the workers of the local cluster did not start: {cause}",
        hint='in a script, connect below: if __name__ == "__main__": — each worker imports the '
        "script anew, and may not start workers itself",
        details={"cause": cause, "retryable": False, "outcome": "none"},
    )


def started_in_worker() -> UnavailableError:
    """Return the error for starting a cluster while a worker process imports the script."""
    return UnavailableError(
        "GV-756",
        "a process that is just being started as a worker wants to start a cluster itself",
        hint='in a script, connect below: if __name__ == "__main__":',
        details={"retryable": False, "outcome": "none"},
    )
