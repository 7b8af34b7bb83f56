"""A cluster of processes that can be killed, stopped and started again: a scheduler and workers."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
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
        groups: resource groups of workers, in their order; others have none.
        host: the address that they listen at.
        apart: a network of its own for the last worker; None: it lives with the others.

    Attributes:
        address: of the scheduler, also after it was started again.
        restarting: whether workers that ended are started again.
        restarts: how often that was done.
    """

    def __init__(
        self,
        folder: Path,
        *,
        workers: int,
        settings: dict[str, str],
        groups: Sequence[str] = (),
        host: str = "127.0.0.1",
        apart: "Apart | None" = None,
    ) -> None:
        self._folder = folder
        self._host = host
        self._apart = apart
        self._environment = {
            **os.environ, **settings, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"
        }  # fmt: skip
        self._port = _free_port(host)
        self.address = f"tcp://{host}:{self._port}"
        self._names = [f"w{number}" for number in range(workers)]
        self._groups = dict(zip(self._names, groups, strict=False))
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self.restarting = True
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

    def stop_scheduler(self) -> None:
        """Let the scheduler hang until `continue_scheduler`."""
        self._send(self._scheduler, signal.SIGSTOP)

    def continue_scheduler(self) -> None:
        """End what `stop_scheduler` began."""
        self._send(self._scheduler, signal.SIGCONT)

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
                if self.restarting and process.poll() is not None:
                    self.restarts += 1
                    self._workers[name] = self._start_worker(name)

    def _start_scheduler(self) -> "subprocess.Popen[bytes]":
        words = ["scheduler", "--host", self._host, "--port", str(self._port)]
        more = ["--dashboard-address", "127.0.0.1:0", "--preload", "gpuvec.cluster.preload"]
        process = self._start("scheduler", [*words, *more])
        until_s = time.monotonic() + _START_S
        while time.monotonic() < until_s and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex((self._host, self._port)) == 0:
                    return process
            time.sleep(0.1)
        raise AssertionError(f"no scheduler came up; see {self._folder}/scheduler.log")

    def _start_worker(self, name: str) -> "subprocess.Popen[bytes]":
        words = ["worker", self.address, "--name", name, "--no-nanny", "--nthreads", "1"]
        kind = ["--worker-class", "gpuvec.cluster.grace_worker.GraceWorker", "--no-dashboard"]
        apart = self._apart if name == self._names[-1] else None
        host = self._host if apart is None else apart.inside
        place = ["--local-directory", str(self._folder / name), "--host", host]
        return self._start(name, [*words, *kind, *place], [] if apart is None else apart.command)

    def _start(
        self, name: str, words: list[str], before: Sequence[str] = ()
    ) -> "subprocess.Popen[bytes]":
        with open(self._folder / f"{name}.log", "ab") as log:
            run = [sys.executable, "-m", "distributed.cli.dask_" + words[0]]
            command = [*before, *run, *words[1:]]
            group = {"DASK_GPUVEC__GROUP": self._groups[name]} if name in self._groups else {}
            environment = {**self._environment, **group}
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def _send(self, process: "subprocess.Popen[bytes]", what: signal.Signals) -> None:
        with self._lock:
            if process.poll() is None:
                process.send_signal(what)


class Apart:
    """A network namespace behind a cable that can be cut: Linux, as root.

    Args:
        number: another one for each that is there at a time.

    Attributes:
        outside: the address of this side.
        inside: of the other side.
        command: runs what follows it on the other side.

    Raises:
        OSError: it cannot be made here.
    """

    def __init__(self, number: int = 0) -> None:
        self._name, self._cable = f"gpuvec{number}", f"gvec{number}"
        self.outside, self.inside = f"10.231.{number}.1", f"10.231.{number}.2"
        self.command = ["ip", "netns", "exec", self._name]
        other = f"{self._cable}p"
        _ip("netns", "add", self._name)
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", other, "netns", self._name)
        _ip("addr", "add", f"{self.outside}/24", "dev", self._cable)
        _ip("link", "set", self._cable, "up")
        for words in (
            ["addr", "add", f"{self.inside}/24", "dev", other],
            ["link", "set", other, "up"],
            ["link", "set", "lo", "up"],
        ):
            _ip("-n", self._name, *words)

    def cut(self) -> None:
        """Let nothing through: no answer, no refusal."""
        _ip("-n", self._name, "link", "set", f"{self._cable}p", "down")

    def mend(self) -> None:
        """End what `cut` began."""
        _ip("-n", self._name, "link", "set", f"{self._cable}p", "up")

    def close(self) -> None:
        """Take it away."""
        _ip("netns", "del", self._name)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
