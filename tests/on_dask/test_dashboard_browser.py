"""The pages in a real browser: they are drawn, they follow changes, and no script complains.

`pytest tests/on_dask/test_dashboard_browser.py --run-slow` also renews the pictures in `docs/`.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from distributed import Scheduler

from gpuvec.clock import SystemClock
from gpuvec.cluster import observe
from gpuvec.cluster.dashboard import PAGES
from gpuvec.testing.browser import Browser, chromium_path
from gpuvec.testing.cluster_state import sample_state

DOCS = Path(__file__).parents[2] / "docs"
# Text of everything drawn: Bokeh's parts are in shadow roots, which `innerText` does not reach.
TEXT = """(() => {
  const read = node => node.nodeType === 3 ? node.data : ["STYLE", "SCRIPT"].includes(node.tagName)
    ? "" : [...(node.shadowRoot ? node.shadowRoot.childNodes : []), ...node.childNodes]
      .map(read).join(" ");
  return read(document.body);
})()"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium_path() is None, reason="no Chromium: apt-get install chromium"),
]


def in_browser(check: Any, state: Any) -> None:
    async def run() -> None:
        observe.prepare()
        async with Scheduler(
            host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0"
        ) as scheduler:
            watch = observe.watch_scheduler(scheduler, state)
            try:
                async with Browser(str(chromium_path()), height=560) as browser:
                    await check(browser, f"http://127.0.0.1:{scheduler.http_server.port}")
                    assert [c for c in browser.complaints if "favicon" not in c] == []
            finally:
                watch.close()

    asyncio.run(run())


SHOWN = {
    "collections": ["papers", "authors", "drafts", "nobody yet", "12.0 s"],
    "segments": ["01SEGMENT", "2 of 2", "worker-1"],
    "nodes": ["worker-0", "host-1", "leaving", "512.0 MiB", "8.40 ms"],
    "jobs": ["search of authors", "running", "40 %", "95.0 s"],
    "recall": ["papers.embedding", "0.9610", "IVFInt8"],
    "device-memory": ["No worker has reported yet"],
}

PICTURES = ("collections", "segments", "nodes", "jobs", "recall")  # memory would differ each time


def test_every_page_is_drawn_and_no_script_complains():
    async def check(browser: Browser, url: str) -> None:
        for spec in PAGES:
            await browser.open(f"{url}/gpuvec-{spec.name}")
            for text in ["4 nodes", *SHOWN[spec.name]]:
                await browser.until(f"{TEXT}.includes({text!r})")
            await asyncio.sleep(0.5)  # what is drawn last
            if spec.name in PICTURES:
                await browser.picture(DOCS / f"dashboard-{spec.name}.png")

    in_browser(check, lambda: sample_state(lacking=3, now_ms=SystemClock().now_ms()))


@pytest.mark.parametrize("segments", [0, 1, 1000])
def test_pages_are_drawn_however_much_there_is(segments):
    async def check(browser: Browser, url: str) -> None:
        words = "1 segment" if segments == 1 else f"{segments:,} segments"
        for spec in PAGES:
            await browser.open(f"{url}/gpuvec-{spec.name}")
            await browser.until(f"{TEXT}.includes({words!r})")

    in_browser(check, lambda: sample_state(segments))


def test_a_page_follows_changes_by_itself():
    now = {"segments": 3}

    async def check(browser: Browser, url: str) -> None:
        await browser.open(f"{url}/gpuvec-segments")
        await browser.until(f"{TEXT}.includes('3 segments')")
        now["segments"] = 12
        await browser.until(f"{TEXT}.includes('12 segments')")
        await browser.until(f"{TEXT}.includes('01SEGMENT00011')")

    in_browser(check, lambda: sample_state(now["segments"]))
