"""Servers for tests, each in a process of its own: moto, Azurite, and OpenSSH for SFTP."""

import base64
import getpass
import hashlib
import hmac
import http.client
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from itertools import count
from pathlib import Path
from typing import Any

BUCKET = "gpuvec-tests"
_START_S = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running server with one bucket."""

    endpoint: str
    key: str = "testing-key"
    secret: str = "testing-secret"  # of a server that ends with the tests

    @property
    def options(self) -> dict[str, Any]:
        """`storage_options` for it."""
        return {"endpoint_url": self.endpoint, "key": self.key, "secret": self.secret}

    def new_url(self) -> str:
        """Return the URL of a place that nobody used before."""
        return f"s3://{BUCKET}/t{time.time_ns():x}-{next(_places)}"

    def client(self) -> Any:
        """Return a boto3 client, for what gpuvec does not do, such as making buckets."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
        )


_places = count()


@contextmanager
def moto_server() -> Iterator[Server]:
    """Start moto's S3 server with a bucket; stop it at the end."""
    port = free_port()
    command = [sys.executable, "-m", "gpuvec.testing.moto_app", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port, process)
        server = Server(f"http://127.0.0.1:{port}")
        server.client().create_bucket(Bucket=BUCKET)
        yield server
    finally:
        process.kill()
        process.wait()


AZURITE = "azurite-blob"  # npm install -g azurite
_ACCOUNT = "devstoreaccount1"  # both as Azurite documents them
_ACCOUNT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


@contextmanager
def azurite_server(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Start Azurite with a container; yield its URL and `storage_options`; stop it at the end."""
    program, port = shutil.which(AZURITE), free_port()
    assert program is not None, f"{AZURITE} is not installed"
    command = [program, "--silent", "--location", str(folder), "--blobPort", str(port)]
    process = subprocess.Popen(
        [*command, "--skipApiVersionCheck"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(port, process)
        _make_container(port)
        options = {
            "account_name": _ACCOUNT,
            "account_key": _ACCOUNT_KEY,
            "endpoint": f"http://127.0.0.1:{port}/{_ACCOUNT}",
        }
        yield f"az://{BUCKET}", options
    finally:
        process.kill()
        process.wait()


def _make_container(port: int) -> None:
    """Ask for the tests' container, signed with the shared key."""
    now, version = formatdate(usegmt=True), "2021-08-06"
    lines = ["PUT", *[""] * 11, f"x-ms-date:{now}", f"x-ms-version:{version}"]
    lines += [f"/{_ACCOUNT}/{_ACCOUNT}/{BUCKET}", "restype:container"]
    key = base64.b64decode(_ACCOUNT_KEY)
    signed = hmac.new(key, "\n".join(lines).encode(), hashlib.sha256).digest()
    headers = {
        "x-ms-date": now,
        "x-ms-version": version,
        "Authorization": f"SharedKey {_ACCOUNT}:{base64.b64encode(signed).decode()}",
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("PUT", f"/{_ACCOUNT}/{BUCKET}?restype=container", headers=headers)
    status = connection.getresponse().status
    connection.close()
    assert status == 201, f"Azurite answered {status}"


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a server answers; `AssertionError` when it ended, or takes a minute."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"no server on port {port} after {_START_S:g} s, or it ended")


SSHD = "/usr/sbin/sshd"  # apt-get install --no-install-recommends openssh-server


@contextmanager
def sftp_server(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Start OpenSSH for this user in a folder; yield a URL of it and options; stop it at the end.

    Everything it needs lies in `folder / "ssh"`; databases may lie in the rest.
    """
    own, port = folder / "ssh", free_port()
    own.mkdir()
    for name in ("host", "user"):
        made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(own / name)]
        subprocess.run(made, check=True)
    (own / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {own}/host\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {own}/user.pub\nStrictModes no\nMaxStartups 100\n"
        "PermitRootLogin yes\nSubsystem sftp internal-sftp\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it, whatever its settings
    command = [SSHD, "-D", "-f", str(own / "config"), "-E", str(own / "log")]
    process = subprocess.Popen(command)
    try:
        wait_for(port, process)
        options = {"key_filename": str(own / "user"), "look_for_keys": False, "allow_agent": False}
        yield f"sftp://{getpass.getuser()}@127.0.0.1:{port}{folder}", options
    finally:
        process.kill()
        process.wait()
