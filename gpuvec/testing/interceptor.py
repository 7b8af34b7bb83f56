"""A proxy in front of an S3 server, that breaks requests as networks and servers do."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from gpuvec.testing.servers import Server

_CONDITION = "if-none-match"
_NOT_PASSED_ON = ("transfer-encoding", "connection", "content-length")


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked."""

    method: str
    path: str
    conditional: bool

    @property
    def creates(self) -> bool:
        """Whether it is a create-if-absent."""
        return self.method == "PUT" and self.conditional


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What happens to a request; by default, nothing bad."""

    drop_condition: bool = False
    status: int = 0  # answered instead of asking the server
    lose_answer: bool = False  # after the server did it
    delay_s: float = 0.0  # before the server is asked


Plan = Callable[[Request], Trouble]
FINE = Trouble()


@contextmanager
def intercepted(server: Server, plan: Plan) -> Iterator[Server]:
    """Yield the same server as seen through a proxy.

    Args:
        server: the real one.
        plan: asked for every request, by several threads; later requests of a retry too.
    """
    target = urlsplit(server.endpoint)
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(target.netloc, plan))
    thread = threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield replace(server, endpoint=f"http://127.0.0.1:{proxy.server_port}")
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()


def first(count: int, which: Callable[[Request], bool], trouble: Trouble) -> Plan:
    """Return a plan that troubles the first `count` requests of a kind."""
    lock = threading.Lock()
    left = [count]

    def plan(request: Request) -> Trouble:
        with lock:
            if not left[0] or not which(request):
                return FINE
            left[0] -= 1
            return trouble

    return plan


def _forward(
    target: str, method: str, path: str, body: bytes, headers: dict[str, str]
) -> tuple[http.client.HTTPResponse, bytes]:
    inner = http.client.HTTPConnection(target, timeout=60)
    try:
        inner.request(method, path, body, headers)
        reply = inner.getresponse()
        return reply, reply.read()
    finally:
        inner.close()


def _handler(target: str, plan: Plan) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            trouble = plan(Request(self.command, self.path, _CONDITION in headers))
            if trouble.drop_condition:
                headers.pop(_CONDITION, None)
            time.sleep(trouble.delay_s)
            if trouble.status:
                self.send(
                    trouble.status,
                    {},
                    f"<Error><Code>Planned{trouble.status}</Code></Error>".encode(),
                )
                return
            headers.pop("connection", None)
            reply, data = _forward(target, self.command, self.path, body, headers)
            if trouble.lose_answer:
                self.close_connection = True
                self.connection.close()
                return
            kept = {n: v for n, v in reply.getheaders() if n.lower() not in _NOT_PASSED_ON}
            length = reply.getheader("content-length") if self.command == "HEAD" else None
            self.send(reply.status, kept, data, length=length)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

        def send(
            self, status: int, headers: dict[str, str], data: bytes, length: str | None = None
        ) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", length or str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # the client went away, or we hung up on it
                self.close_connection = True

        def finish(self) -> None:
            try:
                super().finish()
            except (OSError, ValueError):  # as above
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            return

    return Handler
