"""The engine killed while it writes and flushes: nothing acknowledged is lost or half there."""

import subprocess
import sys
from pathlib import Path

import pytest

ROUNDS = Path(__file__).with_name("engine_rounds.py")


def rounds(folder, count, seed, *server, channels=1):
    numbers = [str(number) for number in (count, seed, channels)]
    command = [sys.executable, str(ROUNDS), str(folder), *numbers, *server]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_killed_engine_loses_nothing_acknowledged(tmp_path):
    assert rounds(tmp_path, 6, seed=1) > 0


def test_an_engine_on_a_bucket_loses_nothing_acknowledged_either(tmp_path, s3):
    assert rounds(tmp_path, 3, 3, s3.endpoint) > 0


def test_a_killed_engine_leaves_no_write_in_some_channels_only(tmp_path):
    assert rounds(tmp_path, 4, seed=5, channels=3) > 0


@pytest.mark.slow
def test_an_engine_killed_two_hundred_times_leaves_no_write_in_some_channels_only(tmp_path):
    assert rounds(tmp_path, 200, seed=6, channels=3) > 0


@pytest.mark.slow
def test_an_engine_on_a_bucket_killed_sixty_times_loses_nothing_acknowledged(tmp_path, s3):
    assert rounds(tmp_path, 60, 4, s3.endpoint) > 0


@pytest.mark.slow
def test_an_engine_killed_two_hundred_times_loses_nothing_acknowledged(tmp_path):
    assert rounds(tmp_path, 200, seed=2) > 0
