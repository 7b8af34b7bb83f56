"""A real browser for tests of pages: Chromium without a window, driven over its own protocol."""

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import WebSocketClientConnection, websocket_connect

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_START_S = 30.0


def chromium_path() -> str | None:
    """Return the path of a Chromium on this machine, None if there is none."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


class Browser:
    """One Chromium with one page. `async with Browser(path) as browser`.

    Args:
        path: of the program.
        width: of the page, in pixels.
        height: the same.

    Attributes:
        complaints: errors and warnings of the page's console, and what its scripts raised.
    """

    def __init__(self, path: str, *, width: int = 1400, height: int = 900) -> None:
        self._path = path
        self._size = (width, height)
        self._folder = tempfile.mkdtemp(prefix="gpuvec-browser-")
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: WebSocketClientConnection | None = None
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._reader: asyncio.Task[None] | None = None
        self.complaints: list[str] = []

    async def __aenter__(self) -> Self:
        width, height = self._size
        self._process = subprocess.Popen(
            [
                self._path, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
                "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-port=0",
                f"--user-data-dir={self._folder}", f"--window-size={width},{height}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        port = await self._port()
        page = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/json/list")
        [target] = [t for t in json.loads(page.body) if t["type"] == "page"]
        self._socket = await websocket_connect(
            target["webSocketDebuggerUrl"], max_message_size=64 << 20
        )
        self._reader = asyncio.create_task(self._read())
        for domain in ("Page", "Runtime", "Log"):
            await self.ask(f"{domain}.enable")
        await self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def open(self, url: str) -> None:
        """Load a page."""
        await self.ask("Page.navigate", url=url)

    async def value(self, script: str) -> Any:
        """Return what an expression of JavaScript is; None where it fails."""
        found = await self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        return found["result"].get("value")

    async def until(self, script: str, *, timeout_s: float = 30.0) -> None:
        """Wait until an expression is true; `TimeoutError` names it."""
        end = asyncio.get_running_loop().time() + timeout_s
        while not await self.value(script):
            if asyncio.get_running_loop().time() > end:
                raise TimeoutError(f"not true within {timeout_s:g} s: {script}")
            await asyncio.sleep(0.1)

    async def picture(self, file: Path) -> None:
        """Save what the page looks like as PNG."""
        found = await self.ask("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(found["data"]))

    async def ask(self, method: str, **params: Any) -> Any:
        """Call a method of the DevTools protocol."""
        assert self._socket is not None
        number = len(self._answers) + 1
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        sent: Awaitable[None] = self._socket.write_message(
            json.dumps({"id": number, "method": method, "params": params})
        )
        await sent
        return await asyncio.wait_for(answer, _START_S)

    async def _port(self) -> int:
        file = Path(self._folder) / "DevToolsActivePort"
        for _ in range(int(_START_S * 10)):
            if file.exists() and (lines := file.read_text().splitlines()):
                return int(lines[0])
            await asyncio.sleep(0.1)
        raise TimeoutError(f"{self._path} did not start within {_START_S:g} s")

    async def _read(self) -> None:
        assert self._socket is not None
        while (text := await self._socket.read_message()) is not None:
            message = json.loads(text)
            if "id" in message:
                answer = self._answers[message["id"]]
                if "error" in message:
                    answer.set_exception(RuntimeError(str(message["error"])))
                else:
                    answer.set_result(message["result"])
            elif complaint := _complaint(message["method"], message.get("params", {})):
                self.complaints.append(complaint)


def _complaint(method: str, params: dict[str, Any]) -> str:
    if method == "Runtime.exceptionThrown":
        return str(params["exceptionDetails"].get("exception", {}).get("description", params))
    if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
        return " ".join(str(a.get("value", a.get("description", ""))) for a in params["args"])
    if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
        entry = params["entry"]
        return f"{entry['text']} {entry.get('url', '')}"
    return ""
