"""Moto's S3 server, one request at a time: `python -m gpuvec.testing.moto_app 5000`.

As it comes, moto looks whether a key exists and then writes it, on a thread per request: of four
creators of one key, now and then two win. S3 lets one win, and so does this.
"""

import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any


def main(port: int) -> None:
    """Serve until killed."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    app = DomainDispatcherApplication(create_backend_app)
    one = threading.Lock()

    def one_by_one(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with one:
            return list(app(environ, start))

    run_simple("127.0.0.1", port, one_by_one, threaded=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
