"""Every procedure x every store operation x every fault: nothing acknowledged is lost.

The quick suite takes one case in 67 of each procedure, the slow one all of them; both print
how many there were. `gpuvec.testing.every_fault` says what is compared, `procedures` what is tried.
"""

from collections import Counter

import pytest

from gpuvec.api.collections import Collections
from gpuvec.errors import GpuvecError
from gpuvec.messages import WriteReply
from gpuvec.testing import every_fault
from gpuvec.testing.every_fault import FAULTS, Trial
from gpuvec.testing.faults import Fault
from gpuvec.testing.procedures import PROCEDURES

MEDIA = {"files": True, "objects": False}
STRIDE = 67

counts = Counter()


def run(name, medium, first, step):
    trial = Trial(PROCEDURES[name], MEDIA[medium])
    cases = list(trial.cases())
    for number, fault in cases[first::step]:
        trial.check(number, fault)
        counts["cases"] += 1
    counts["possible"] += len(cases)
    counts["operations"] += len(trial.operations)
    counts["procedures"] += medium == "files"


@pytest.fixture(scope="module", autouse=True)
def tell(request):
    """Print how many cases there were."""
    counts.clear()
    yield
    if counts:
        capture = request.config.pluginmanager.get_plugin("capturemanager")
        with capture.global_and_fixture_disabled():
            print(
                f"\nevery fault: {counts['cases']:,} of {counts['possible']:,} cases, "
                f"{counts['procedures']} procedures, {counts['operations']:,} store operations"
            )


@pytest.mark.parametrize("medium", MEDIA)
@pytest.mark.parametrize("name", PROCEDURES)
def test_some_faults_lose_nothing_acknowledged(name, medium):
    run(name, medium, len(name) % 7, STRIDE)


@pytest.mark.slow
@pytest.mark.parametrize("medium", MEDIA)
@pytest.mark.parametrize("name", PROCEDURES)
def test_no_fault_loses_anything_acknowledged(name, medium):
    run(name, medium, 0, 1)


class Boaster(every_fault.PlannedEngine):
    """Acknowledges writes that failed."""

    def _submit(self, request, deadline_s):
        try:
            return super()._submit(request, deadline_s)
        except GpuvecError:
            return WriteReply(version=1, inserted=0, updated=0, deleted=0, keys=None)


class HastyCollections(Collections):
    """Deletes a dropped collection before it is committed that it is dropped."""

    def drop(self, name):
        _, collection_id = self._engine.root().resolve(name)
        self._engine.dropped.add([collection_id])
        self._engine.dropped.delete()
        super().drop(name)


class Hasty(every_fault.PlannedEngine):
    """Has `HastyCollections`."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.collections = HastyCollections(self)


def check_all(trial):
    for number, fault in trial.cases():
        trial.check(number, fault)


@pytest.mark.parametrize(
    ("engine", "name"), [(Boaster, "claim, replay and insert"), (Hasty, "drop a collection")]
)
def test_an_engine_that_breaks_the_rules_is_found_out(engine, name, monkeypatch):
    monkeypatch.setattr(every_fault, "PlannedEngine", engine)
    trial = Trial(PROCEDURES[name], appendable=True)
    with pytest.raises((AssertionError, GpuvecError)):
        check_all(trial)


def test_every_kind_of_fault_is_tried():
    tried = {fault for faults in FAULTS.values() for fault in faults}
    assert tried == set(Fault)
