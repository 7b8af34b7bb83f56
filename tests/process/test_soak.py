"""Four processes on one database, killed at any moment: it is always what was written."""

import json
import subprocess
import sys

import pytest

from gpuvec.testing.model import ModelCollection
from gpuvec.testing.soak_data import LANES, Journal, apply, model_sum, rows_in
from gpuvec.testing.soak_judge import Disagreement, Judge

QUICK_MINUTES = 0.15
SLOW_MINUTES = 1.0


def soak(folder, minutes, *options):
    command = [sys.executable, "-m", "gpuvec.testing.soak", "--minutes", str(minutes)]
    done = subprocess.run(
        [*command, "--folder", str(folder), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=minutes * 60 + 240,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    print(done.stdout)
    return json.loads(done.stdout)


def test_a_short_soak(tmp_path):
    counts = soak(tmp_path, QUICK_MINUTES)
    assert counts["acknowledged"] > 0
    assert counts["states"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_a_soak_of_a_directory(tmp_path, request, channels):
    minutes = request.config.getoption("--soak-minutes") or SLOW_MINUTES
    counts = soak(tmp_path, minutes, "--channels", str(channels), "--seed", str(channels))
    for what in ("acknowledged", "kills", "sessions", "states", "searches", "files_deleted"):
        assert counts[what] > 0, what


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_a_soak_of_a_bucket(tmp_path, request, s3, channels):
    minutes = request.config.getoption("--soak-minutes") or SLOW_MINUTES
    place = ("--endpoint", s3.endpoint, "--channels", str(channels))
    counts = soak(tmp_path, minutes, *place)
    assert counts["acknowledged"] > 0
    assert counts["states"] > 0


# The judge notices what it is there for


UPSERT = {"op": 7, "lane": 0, "kind": "upsert", "rows": [[1, 5], [2, 6]]}
DELETE = {"op": 8, "lane": 0, "kind": "delete", "keys": [1]}
EMPTY = [0] * LANES


def sums_after(*events):
    model = ModelCollection("key", {})
    for event in events:
        apply(model, event)
    return [model_sum(model), *EMPTY[1:]]


def half_of(event):
    model = ModelCollection("key", {})
    model.upsert(rows_in(event)[:1])
    return [model_sum(model), *EMPTY[1:]]


class Story:
    """Journals of two sessions and a reader, as processes would have written them."""

    def __init__(self, folder):
        self.folder = folder
        self.first = Journal(folder / "writer-1")
        self.second = Journal(folder / "writer-2")
        self.reader = Journal(folder / "reader-3")
        self.sync(self.first, 10, EMPTY)

    def sync(self, journal, version, sums):
        journal.note("sync", version=version, sums=sums, extra=False, tags={}, side=[])

    def judge(self):
        judge = Judge(self.folder)
        judge.finish()
        return judge


@pytest.fixture
def story(tmp_path):
    return Story(tmp_path)


def wrote(story, *events):
    for n, event in enumerate(events):
        story.first.note("try", **event)
        story.first.note("done", op=event["op"], version=20 + n)


def test_a_judge_agrees_with_what_was_written(story):
    wrote(story, UPSERT, DELETE)
    story.reader.note("see", since=20, until=20, sums=sums_after(UPSERT))
    story.reader.note("see", since=25, until=25, sums=sums_after(UPSERT, DELETE))
    story.sync(story.second, 30, sums_after(UPSERT, DELETE))
    assert story.judge().counts["states"] == 2


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (EMPTY, "2 changes ago"),
        (sums_after(UPSERT), "1 changes ago"),
        (half_of(UPSERT), "never was"),
    ],
    ids=["all lost", "deleted row is back", "half lost"],
)
def test_a_judge_notices_lost_writes(story, found, why):
    wrote(story, UPSERT, DELETE)
    story.sync(story.second, 30, found)
    with pytest.raises(Disagreement, match=why):
        story.judge()


@pytest.mark.parametrize(("found", "happened"), [(sums_after(UPSERT), 1), (EMPTY, 0)])
def test_a_step_that_was_cut_short_happened_or_not(story, found, happened):
    story.first.note("try", **UPSERT)
    story.reader.note("see", since=25, until=25, sums=found)
    story.sync(story.second, 30, found)
    assert story.judge().counts["cut_short_done"] == happened


def test_a_step_that_was_cut_short_never_happens_by_half(story):
    story.first.note("try", **UPSERT)
    story.sync(story.second, 30, half_of(UPSERT))
    with pytest.raises(Disagreement, match="never was"):
        story.judge()


def test_a_judge_notices_a_read_of_another_version(story):
    wrote(story, UPSERT, DELETE)
    story.reader.note("see", since=25, until=25, sums=sums_after(UPSERT))
    story.sync(story.second, 30, sums_after(UPSERT, DELETE))
    with pytest.raises(Disagreement, match="another version's state"):
        story.judge()


def test_a_judge_notices_a_write_of_a_session_that_was_replaced(story):
    story.first.note("try", **UPSERT)
    story.first.note("done", op=7, version=40)
    story.sync(story.second, 30, EMPTY)
    with pytest.raises(Disagreement, match="after its successor"):
        story.judge()


def test_a_judge_notices_a_tag_that_is_gone(story):
    story.first.note("try", op=9, kind="tag", name="a")
    story.first.note("done", op=9, tagged=10)
    story.sync(story.second, 30, EMPTY)
    with pytest.raises(Disagreement, match="tags"):
        story.judge()
