"""Builds and compactions in a cluster: any node does them, the owner puts them in their place."""

import itertools
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpuvec as gv
from gpuvec import errors
from gpuvec.api.heavy import Building
from gpuvec.cluster.maintenance import Workshop
from gpuvec.cluster_messages import COORDINATOR
from gpuvec.node.build import plan_build
from gpuvec.testing.roles import cut_off_owner, owner_of, wait_for
from gpuvec.work_messages import HeavyWork, WorkShare

DIM = 4
SCHEMA = gv.Schema({"id": gv.Int64(), "n": gv.Int64(), "v": gv.Vector(DIM)}, primary_key="id")


@pytest.fixture(autouse=True)
def all_is_worth_the_way():
    with gv.config.set(cluster__task_bytes=0):
        yield


def rows(start, stop):
    made = np.random.default_rng(start)
    ids = np.arange(start, stop)
    return {"id": ids, "n": ids % 7, "v": made.random((stop - start, DIM), np.float32)}


def filled(db, *bounds, name="items"):
    items = db.create_collection(name, SCHEMA)
    for start, stop in itertools.pairwise(bounds):
        items.insert(rows(start, stop))
        items.flush()
    return items


def ids_of(items):
    return sorted(items.select("id").to_arrow()["id"].to_pylist())


def segments(roles, items):
    return roles.nodes[owner_of(roles, items).node].state(items._id).segments


def test_indexes_are_built_by_any_node(roles, db):
    items = filled(db, 0, 100, 200, 300)
    items.create_index("n", gv.index.Sorted())
    found = segments(roles, items)
    assert len(found) == 3
    assert all("n" in segment.indexes for segment in found.values())
    assert {name for name, _ in roles.worked} == set(roles.nodes)
    assert len({job_id for _, job_id in roles.worked}) == 3
    assert items.filter("n == 3").count() == sum(n % 7 == 3 for n in range(300))


def test_compaction_is_done_by_any_node_and_builds_the_indexes(roles, db):
    items = filled(db, 0, 100, 200, 300)
    items.create_index("n", gv.index.Sorted())
    items.delete(ids=[5, 105])
    before = len(roles.worked)
    report = items.compact()
    assert (report.segments_before, report.segments_after) == (3, 2)  # rows of old versions apart
    assert len(roles.worked) > before
    live, history = sorted(segments(roles, items).values(), key=lambda s: -s.row_count)
    assert (live.row_count, history.row_count) == (298, 2)
    assert "n" in live.indexes
    assert ids_of(items) == [n for n in range(300) if n not in (5, 105)]


class Held:
    """Has works begin when they may."""

    def __init__(self, roles):
        self._perform = roles._perform
        self.begun, self.go = threading.Event(), threading.Event()
        roles._perform = self.perform

    def perform(self, *arguments):
        self.begun.set()
        assert self.go.wait(20)
        return self._perform(*arguments)


def test_deletes_that_come_while_another_node_works_are_carried_over(roles, db):
    items = filled(db, 0, 100, 200)
    items.delete(ids=[1])  # in no file when the work begins
    held = Held(roles)
    done = threading.Thread(target=items.compact)
    done.start()
    assert held.begun.wait(20)
    items.delete(ids=[2, 150])
    items.insert(rows(40, 45), on_conflict="replace")
    held.go.set()
    done.join()
    assert ids_of(items) == [n for n in range(200) if n not in (1, 2, 150)]
    assert sorted(s.row_count for s in segments(roles, items).values()) == [1, 199]
    items.flush()
    owner = roles.nodes[owner_of(roles, items).node]
    owner.channels.peek(items._id).close()  # what comes next is read from the files
    assert ids_of(items) == [n for n in range(200) if n not in (1, 2, 150)]


def test_old_versions_outlive_a_compaction_elsewhere(roles, db):
    items = filled(db, 0, 50, 100)
    before = items.insert(rows(100, 101)).version
    items.delete(ids=[3, 4])
    items.compact()
    assert sorted(items.at(version=before).select("id").to_arrow()["id"].to_pylist()) == list(
        range(101)
    )
    assert ids_of(items) == [n for n in range(101) if n not in (3, 4)]


def test_a_node_that_is_lost_costs_no_work(roles, db):
    items = filled(db, 0, 100, 200)
    owner = owner_of(roles, items).node
    lost = next(name for name in roles.nodes if name != owner)
    roles.transport.cut.add(lost)
    items.create_index("n", gv.index.Sorted())
    assert all("n" in segment.indexes for segment in segments(roles, items).values())
    done = [name for name, _ in roles.worked]
    assert done.count(owner) == 2
    assert lost in done


def test_a_work_that_fails_says_why_to_whoever_wants_it(roles, db):
    items = filled(db, 0, 100)

    def fail(*_):
        raise errors.index_memory_exceeded("an index", {"index": 9}, 1)

    roles._perform = fail
    with pytest.raises(gv.DeviceMemoryError, match="GV-401"):
        items.create_index("n", gv.index.Sorted())


def test_an_owner_waits_for_a_coordinator_that_is_away(roles, db):
    items = filled(db, 0, 100)
    held = Held(roles)
    job = items.create_index("n", gv.index.Sorted(), wait=False)
    assert held.begun.wait(20)
    roles.pause()
    roles.transport.cut.add(COORDINATOR)
    roles.workshop.close()  # the next one knows nothing
    held.go.set()
    time.sleep(0.6)
    roles.transport.cut.clear()
    job.wait(20)
    assert all("n" in segment.indexes for segment in segments(roles, items).values())


def test_what_an_owner_ordered_that_was_replaced_changes_nothing(short):
    roles, db = short
    items = filled(db, 0, 100)
    held = Held(roles)
    items.create_index("n", gv.index.Sorted(), wait=False)
    assert held.begun.wait(20)
    cut_off_owner(roles, items)
    roles.transport.cut.clear()
    held.go.set()
    items.insert(rows(100, 101))
    engine = roles.nodes[owner_of(roles, items).node]

    def built():
        found = engine.state(items._id).segments.values()
        return all("n" in segment.indexes for segment in found)

    wait_for(built, "the next owner did not build it")
    assert ids_of(items) == list(range(101))
    records = [s.indexes["n"] for s in engine.state(items._id).segments.values()]
    assert len(records) == len({record.index_id for record in records})


# The coordinator's part


class Task:
    def __init__(self, outcome=None):
        self.outcome, self.cancelled = outcome, False

    def done(self):
        return self.outcome is not None

    def result(self, timeout=None):
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def cancel(self):
        self.cancelled = True


class Gone(Exception):
    """The worker is."""


class Shop:
    def __init__(self):
        self.tasks = []
        self.shop = Workshop(self.submit, lambda: 3, (Gone,))

    def submit(self, identity, job_id, work):
        self.tasks.append(Task())
        return self.tasks[-1]

    def ask(self, work=None, wanted=True):
        return self.shop.ask(
            HeavyWork(identity="db", job_id="j", what="a build", work=work, wanted=wanted)
        )


def test_a_work_is_begun_once_however_often_it_is_asked_for():
    shop = Shop()
    assert shop.ask().status == "unknown"
    assert [shop.ask("w").status for _ in range(3)] == ["running"] * 3
    assert len(shop.tasks) == 1
    assert shop.ask().width == 3
    shop.tasks[0].outcome = "record"
    for _ in range(2):  # the first answer may be lost
        assert (shop.ask().status, shop.ask().result) == ("done", "record")
    shop.ask(wanted=False)
    assert shop.ask().status == "unknown"


def test_a_lost_worker_is_made_good_three_times():
    shop = Shop()
    shop.ask("w")
    for times in (1, 2):
        shop.tasks[-1].outcome = Gone()
        assert shop.ask().status == "running"
        assert len(shop.tasks) == times + 1
    shop.tasks[-1].outcome = Gone()
    state = shop.ask()
    assert state.status == "failed"
    assert state.error.code == "GV-792"
    assert len(shop.tasks) == 3


def test_what_nobody_wants_is_ended_and_the_worker_is_told():
    shop = Shop()
    shop.ask("w")
    shop.shop.share(WorkShare(identity="db", job_id="j", share=0.5))
    assert shop.ask().share == 0.5
    assert [line["progress"] for line in shop.shop.lines("db")] == [0.5]
    assert shop.shop.lines("other") == []
    shop.ask(wanted=False)
    assert shop.tasks[0].cancelled
    with pytest.raises(errors.JobError, match="GV-793"):
        shop.shop.share(WorkShare(identity="db", job_id="j", share=0.6))


def test_the_name_of_a_work_follows_from_what_it_reads(roles, db):
    items = filled(db, 0, 10, 20)
    job = items.create_index("n", gv.index.Sorted(), wait=False)
    job.wait(20)
    state = roles.nodes[owner_of(roles, items).node].state(items._id)
    names = [
        Building(plan=plan_build(state, segment, "n"), key="id").job_id
        for segment in (*state.segments, *state.segments)
    ]
    assert len(set(names)) == 2


# Imports


def write_files(folder, count, size):
    for number in range(count):
        found = rows(number * size, (number + 1) * size)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(found["v"].ravel()), DIM)
        table = pa.table({"id": found["id"], "n": found["n"], "v": vectors})
        pq.write_table(table, folder / f"part-{number:02d}.parquet")


@pytest.mark.parametrize("channels", [1, 3])
def test_parts_of_an_import_are_written_by_any_node(roles, db, tmp_path, channels):
    items = db.create_collection("items", SCHEMA, channels=channels)
    (tmp_path / "in").mkdir()
    write_files(tmp_path / "in", 3, 400)
    done = items.bulk_import(tmp_path / "in" / "*.parquet")
    assert done.inserted == 1200
    assert len(roles.worked) >= 1
    assert ids_of(items) == list(range(1200))
    assert items.bulk_import(tmp_path / "in" / "*.parquet").version == done.version


def test_what_is_wrong_with_a_file_is_told_by_the_node_that_read_it(roles, db, tmp_path):
    items = db.create_collection("items", SCHEMA)
    write_files(tmp_path, 2, 10)
    again = rows(3, 5)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(again["v"].ravel()), DIM)
    table = pa.table({"id": again["id"], "n": again["n"], "v": vectors})
    pq.write_table(table, tmp_path / "part-09.parquet")
    with pytest.raises(gv.SchemaError, match="GV-663"):
        items.bulk_import(tmp_path / "*.parquet")
    assert items.count() == 0
    assert items.bulk_import(tmp_path / "*.parquet", on_conflict="skip").inserted == 20
