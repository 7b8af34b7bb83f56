"""A cluster of processes that can be killed, stopped and started again: a scheduler and workers."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_START_S = 90.0
_LOOK_S = 0.2


class Processes:
    """One scheduler and some workers, started as users start them. Dead workers come back.

    Args:
        folder: for their logs and temporary files.
        workers: how many.
        settings: of gpuvec in all of them, as variables.

    Attributes:
        address: of the scheduler, also after it was started again.
    """

    def __init__(self, folder: Path, *, workers: int, settings: dict[str, str]) -> None:
        self._folder = folder
        self._environment = {
            **os.environ, **settings, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"
        }  # fmt: skip
        self._port = _free_port()
        self.address = f"tcp://127.0.0.1:{self._port}"
        self._names = [f"w{number}" for number in range(workers)]
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self.restarts = 0
        self._scheduler = self._start_scheduler()
        for name in self._names:
            self._workers[name] = self._start_worker(name)
        self._thread = threading.Thread(target=self._mind, name="chaos-nanny", daemon=True)
        self._thread.start()

    @property
    def names(self) -> list[str]:
        """Of the workers."""
        return list(self._names)

    def kill_worker(self, name: str) -> None:
        """End a worker at once; another process takes its name and place."""
        self._send(self._workers[name], signal.SIGKILL)

    def stop_worker(self, name: str, seconds: float) -> None:
        """Let a worker hang for some seconds; returns when it goes on."""
        process = self._workers[name]
        self._send(process, signal.SIGSTOP)
        self._ending.wait(seconds)
        self._send(process, signal.SIGCONT)

    def slow_worker(self, name: str, seconds: float, *, chance: random.Random) -> None:
        """Let a worker run only a part of the time, for some seconds."""
        process, until_s = self._workers[name], time.monotonic() + seconds
        while time.monotonic() < until_s and not self._ending.is_set():
            self._send(process, signal.SIGSTOP)
            time.sleep(chance.uniform(0.05, 0.4))
            self._send(process, signal.SIGCONT)
            time.sleep(0.1)

    def restart_scheduler(self, *, pause_s: float) -> None:
        """End the scheduler at once; start another at its address after a pause."""
        self._send(self._scheduler, signal.SIGKILL)
        self._scheduler.wait()
        self._ending.wait(pause_s)
        self._scheduler = self._start_scheduler()

    def close(self) -> None:
        """End all processes."""
        self._ending.set()
        self._thread.join()
        for process in [*self._workers.values(), self._scheduler]:
            self._send(process, signal.SIGCONT)
            process.terminate()
        for process in [*self._workers.values(), self._scheduler]:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def _mind(self) -> None:
        while not self._ending.wait(_LOOK_S):
            for name, process in list(self._workers.items()):
                if process.poll() is not None:
                    self.restarts += 1
                    self._workers[name] = self._start_worker(name)

    def _start_scheduler(self) -> "subprocess.Popen[bytes]":
        words = ["scheduler", "--host", "127.0.0.1", "--port", str(self._port)]
        more = ["--dashboard-address", "127.0.0.1:0", "--preload", "gpuvec.cluster.preload"]
        process = self._start("scheduler", [*words, *more])
        until_s = time.monotonic() + _START_S
        while time.monotonic() < until_s and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return process
            time.sleep(0.1)
        raise AssertionError(f"no scheduler came up; see {self._folder}/scheduler.log")

    def _start_worker(self, name: str) -> "subprocess.Popen[bytes]":
        words = ["worker", self.address, "--name", name, "--no-nanny", "--nthreads", "1"]
        kind = ["--worker-class", "gpuvec.cluster.grace_worker.GraceWorker", "--no-dashboard"]
        place = ["--local-directory", str(self._folder / name), "--host", "127.0.0.1"]
        return self._start(name, [*words, *kind, *place])

    def _start(self, name: str, words: list[str]) -> "subprocess.Popen[bytes]":
        with open(self._folder / f"{name}.log", "ab") as log:
            command = [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]]
            return subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)

    def _send(self, process: "subprocess.Popen[bytes]", what: signal.Signals) -> None:
        with self._lock:
            if process.poll() is None:
                process.send_signal(what)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
