"""Certificates of a cluster's own: an authority, one for its processes, one for clients.

All connections are mutual TLS then: whoever holds no certificate of this authority is refused. Whom
a certificate was made for is not looked at; see `docs/cluster.md` about what that means.
"""

import datetime
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gpuvec import errors

CA, NODE, CLIENT = "ca", "node", "client"
CONFIG = "dask.yaml"  # what `DASK_CONFIG=folder` reads
DAYS = 365


def make_certificates(folder: Path, *, days: int = DAYS) -> list[Path]:
    """Write an authority, certificates of processes and clients, and Dask's settings for them.

    Args:
        folder: made if it is not there; keys in it can be read by its owner only.
        days: that they are good for.

    Returns:
        The files.

    Raises:
        AlreadyExistsError: `GV-795`, there are some already.
        UnsupportedError: `GV-797`, cryptography is not installed.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric import ec
    except ModuleNotFoundError:
        raise errors.no_cryptography() from None
    for name in (_certificate(CA), _key(CA), CONFIG):
        if (folder / name).exists():
            raise errors.certificates_exist(str(folder), name)
    folder.mkdir(parents=True, exist_ok=True)
    root = ec.generate_private_key(ec.SECP256R1())
    authority = _signed("gpuvec authority", root, root, None, days)
    made = _written(folder, CA, authority, root)
    for name in (NODE, CLIENT):
        own = ec.generate_private_key(ec.SECP256R1())
        made += _written(folder, name, _signed(f"gpuvec {name}", own, root, authority, days), own)
    settings = folder / CONFIG
    settings.write_text(yaml.safe_dump(_nested(tls_settings(folder)), sort_keys=True))
    return [*made, settings]


def tls_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of Dask that make a process use a folder's certificates.

    Raises:
        NotFoundError: `GV-796`, one is missing.
    """
    folder = folder.resolve()
    for name in (_certificate(CA), *(f(n) for n in (NODE, CLIENT) for f in (_certificate, _key))):
        if not (folder / name).is_file():
            raise errors.no_certificates(str(folder), name)
    found: dict[str, Any] = {
        "distributed.comm.require-encryption": True,
        "distributed.comm.tls.ca-file": str(folder / _certificate(CA)),
    }
    for role, name in (("scheduler", NODE), ("worker", NODE), ("client", CLIENT)):
        found[f"distributed.comm.tls.{role}.cert"] = str(folder / _certificate(name))
        found[f"distributed.comm.tls.{role}.key"] = str(folder / _key(name))
    return found


def _certificate(name: str) -> str:
    return f"{name}.pem"


def _key(name: str) -> str:
    return f"{name}-key.pem"


def _signed(name: str, own: Any, signer: Any, authority: Any, days: int) -> Any:
    """Return a certificate of a key, signed by another; by itself where there is no authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if authority is None else authority.subject)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks of hosts differ
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )


def _written(folder: Path, name: str, certificate: Any, key: Any) -> list[Path]:
    from cryptography.hazmat.primitives import serialization

    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    files = [folder / _certificate(name), folder / _key(name)]
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    with open(os.open(files[1], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text)
    return files


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        inner = nested
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return nested
