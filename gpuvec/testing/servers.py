"""S3 servers for tests: moto, in a process of its own."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
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
