"""Errors of starting clusters by hand: certificates, commands."""

from gpuvec.errors.base import AlreadyExistsError, NotFoundError, UnavailableError, UnsupportedError


def certificates_exist(folder: str, name: str) -> AlreadyExistsError:
    """Return the error for certificates that would replace others."""
    return AlreadyExistsError(
        "GV-795",
        f"{folder} holds {name} already",
        hint="name another folder; processes that use these certificates would be locked out",
        details={"folder": folder, "file": name},
    )


def no_certificates(folder: str, name: str) -> NotFoundError:
    """Return the error for a folder without the certificates that `gpuvec cluster certs` makes."""
    return NotFoundError(
        "GV-796",
        f"{folder} holds no {name}",
        hint=f"make certificates with: gpuvec cluster certs {folder}",
        details={"folder": folder, "file": name},
    )


def no_cryptography() -> UnsupportedError:
    """Return the error for making certificates without the library for it."""
    return UnsupportedError(
        "GV-797",
        "cryptography is not installed, and makes certificates",
        hint="pip install 'gpuvec[tls]', or make them with other tools; docs/cluster.md names them",
    )


def no_status_page(address: str, cause: str) -> UnavailableError:
    """Return the error for a scheduler whose HTTP pages cannot be read."""
    return UnavailableError(
        "GV-798",
        f"the HTTP pages of {address} cannot be read: {cause}",
        hint="they are on the scheduler's dashboard port, 8787 unless told otherwise",
        details={"address": address, "retryable": True, "outcome": "none"},
    )
