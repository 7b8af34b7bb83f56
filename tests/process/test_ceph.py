"""The real S3 server: Ceph, as Debian packages it. What else runs on moto runs on it too."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import gpuvec as gv
from gpuvec import errors
from gpuvec.testing.ceph import Ceph, missing_programs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_programs()), reason="Ceph is not installed: make slow does it"),
]
TESTS = Path(__file__).parent.parent
SCHEMA = gv.Schema({"id": gv.Int64(), "v": gv.Vector(4)}, primary_key="id")
KILLS = 2


def test_what_holds_on_a_mock_holds_on_ceph():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--ceph",
        "--store=s3",
        "-p",
        "no:cacheprovider",
    ]
    names = ["storage/test_remote.py", "storage/test_probe.py", "api/test_buckets.py"]
    files = [str(TESTS / name) for name in names]
    done = subprocess.run(
        [*command, *files], capture_output=True, text=True, check=False, timeout=2400
    )
    assert done.returncode == 0, done.stdout[-5000:]


def test_nothing_acknowledged_is_lost_when_the_disk_process_is_killed(tmp_path):
    with Ceph(tmp_path) as ceph:
        place = {"path": ceph.server.new_url(), "storage_options": ceph.server.options}
        acknowledged: list[int] = []
        done = threading.Event()

        def write():
            start = 0
            with gv.connect(**place) as db:
                items = db.create_collection("items", SCHEMA)
                while not done.is_set():
                    ids = np.arange(start, start + 10)
                    start += 10
                    try:
                        items.insert({"id": ids, "v": np.ones((10, 4), np.float32)})
                    except (errors.UnavailableError, errors.StorageError):
                        continue
                    acknowledged.extend(ids.tolist())

        writer = threading.Thread(target=write)
        writer.start()
        for _ in range(KILLS):
            before = len(acknowledged)
            while len(acknowledged) < before + 200:
                time.sleep(0.05)
            ceph.kill_disk()
            time.sleep(1)
            ceph.start_disk()
        before = len(acknowledged)
        while len(acknowledged) < before + 200:
            time.sleep(0.05)
        done.set()
        writer.join()
        with gv.connect(**place) as db:
            found = set(db["items"].select("id").to_pandas()["id"])
        assert found >= set(acknowledged)
        assert len(acknowledged) >= 200 * (KILLS + 1)
