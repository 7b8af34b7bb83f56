"""A Ceph cluster of one monitor, one disk and one S3 gateway, in a folder, for tests.

Debian has it: `apt-get install --no-install-recommends radosgw ceph-mon ceph-osd`. No systemd and
no manager is needed. It must run as root, or as a user that may do all this in the folder.
"""

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from gpuvec.testing.servers import BUCKET, Server, free_port, wait_for

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw")
_CAPS = {
    "mon.": ["mon", "allow *"],
    "client.admin": ["mon", "allow *", "osd", "allow *", "mgr", "allow *"],
    "osd.0": ["mon", "allow profile osd", "osd", "allow *"],
    "client.rgw.a": ["mon", "allow *", "osd", "allow *"],
}
_CONFIG = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{v2}/0,v1:127.0.0.1:{v1}/0]
keyring = {folder}/keyring
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
pid file =
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
mon allow pool size one = true
mon max pg per osd = 1000
osd crush chooseleaf type = 0
ms bind ipv6 = false
public network = 127.0.0.0/8
mon data avail crit = 1
mon data avail warn = 2
auth allow insecure global id reclaim = false
[mon.a]
mon data = {folder}/mon
[osd.0]
osd data = {folder}/osd
osd objectstore = {objectstore}
bluestore block size = 8589934592
memstore device bytes = 4294967296
[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw data = {folder}/rgw
"""


def missing_programs() -> list[str]:
    """Return the programs of Ceph that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class Ceph:
    """Starts with `with`, and is killed at its end.

    Args:
        folder: empty, for everything that it writes.
        objectstore: `bluestore`, on a sparse file that outlives a kill, or `memstore`.
    """

    def __init__(self, folder: Path, *, objectstore: str = "bluestore") -> None:
        self._folder = folder
        self._config = folder / "ceph.conf"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._port = free_port()
        self._fsid = str(uuid.uuid4())
        self._mon = (free_port(), free_port())
        self._objectstore = objectstore
        self.server = Server(f"http://127.0.0.1:{self._port}")

    def __enter__(self) -> Self:
        try:
            self._prepare()
            self._start_all()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _prepare(self) -> None:
        for name in ("mon", "osd", "rgw"):
            (self._folder / name).mkdir()
        self._config.write_text(
            _CONFIG.format(
                fsid=self._fsid,
                v2=self._mon[0],
                v1=self._mon[1],
                folder=self._folder,
                port=self._port,
                objectstore=self._objectstore,
            )
        )
        keyring = str(self._folder / "keyring")
        for number, (name, caps) in enumerate(_CAPS.items()):
            asked = [part for cap in zip(caps[::2], caps[1::2], strict=True) for part in cap]
            flags = [flag for i in range(0, len(asked), 2) for flag in ("--cap", *asked[i : i + 2])]
            new = ["--create-keyring"] if number == 0 else []
            self._run("ceph-authtool", *new, keyring, "--gen-key", "-n", name, *flags)
        addresses = f"[v2:127.0.0.1:{self._mon[0]},v1:127.0.0.1:{self._mon[1]}]"
        monmap = str(self._folder / "monmap")
        self._run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", addresses, monmap)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)

    def _start_all(self) -> None:
        self._start("mon", "ceph-mon", "-f", "-i", "a")
        self._run("ceph", "auth", "import", "-i", str(self._folder / "keyring"))
        disk = str(uuid.uuid4())
        self._run("ceph", "osd", "new", disk, "0")
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        self.start_disk()
        self._start("gateway", "radosgw", "-f", "-n", "client.rgw.a")
        wait_for(self._port, self._processes["gateway"])
        user = ["--uid=test", "--display-name=test"]
        keys = [f"--access-key={self.server.key}", f"--secret-key={self.server.secret}"]
        self._run("radosgw-admin", "-n", "client.rgw.a", "user", "create", *user, *keys)
        self.server.client().create_bucket(Bucket=BUCKET)

    def start_disk(self) -> None:
        """Start the process that holds the objects, after `kill_disk`."""
        self._start("disk", "ceph-osd", "-f", "-i", "0")

    def kill_disk(self) -> None:
        """Kill the process that holds the objects; requests wait until it is started again."""
        self._kill("disk")

    def stop(self) -> None:
        """Kill everything."""
        for name in list(self._processes):
            self._kill(name)

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def _start(self, name: str, *command: str) -> None:
        with (self._folder / f"{name}.out").open("ab") as out:
            self._processes[name] = subprocess.Popen(
                [*command, "-c", str(self._config)], stdout=out, stderr=out, cwd=self._folder
            )

    def _run(self, *command: str) -> None:
        environment = {**os.environ, "CEPH_CONF": str(self._config)}
        done = subprocess.run(
            [*command, "-c", str(self._config)] if command[0] != "ceph-authtool" else command,
            capture_output=True,
            check=False,
            env=environment,
            timeout=120,
            cwd=self._folder,
        )
        if done.returncode:
            said = (done.stdout + done.stderr).decode(errors="replace")[-2000:]
            raise AssertionError(f"{' '.join(command)} failed: {said}")


@contextmanager
def ceph_server(folder: Path) -> Iterator[Server]:
    """Start Ceph in a folder with a bucket; kill it at the end."""
    with Ceph(folder) as ceph:
        yield ceph.server
