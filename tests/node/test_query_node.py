"""Nodes answer at exactly the version that was planned, or say that they cannot."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

import gpuvec as gv
from gpuvec.clock import ManualClock, SystemClock
from gpuvec.data_messages import PlanRead, Stale
from gpuvec.errors import NotFoundError, UnavailableError
from gpuvec.node.query_node import IDLE_S, QueryNode
from gpuvec.query.fragment import pack
from gpuvec.query.questions import CountRows, TakeRows
from gpuvec.query.spread import read_part
from tests.query.spread_nodes import follower, session, spread_over

DIM = 4


def rows(start, stop):
    keys = np.arange(start, stop)
    return {"id": keys, "n": keys % 7, "v": np.repeat(keys[:, None], DIM, 1).astype(np.float32)}


@pytest.fixture
def db(tmp_path):
    with gv.connect(tmp_path) as db:
        yield db


@pytest.fixture
def items(db):
    schema = gv.Schema({"id": gv.Int64(), "n": gv.Int64(), "v": gv.Vector(DIM, metric="l2")}, "id")
    items = db.create_collection("items", schema)
    items.insert(rows(0, 100))
    items.flush()
    items.insert(rows(100, 150))
    return items


@pytest.fixture
def node_of(tmp_path):
    opened = []

    def make(clock=None):
        engine = follower(tmp_path)
        node = QueryNode(engine, session(), clock or SystemClock())
        opened.extend([engine, node])
        return node

    yield make
    for each in reversed(opened):
        each.close()


@pytest.fixture
def node(node_of):
    return node_of()


def planned(node, items, **options):
    return node.plan(PlanRead(identity="db", collection_id=items._source.collection_id, **options))


def asked(plan, question, *, growing=None):
    segments = [segment for segment, _ in plan.segments]
    growing = plan.growing_rows > 0 if growing is None else growing
    return read_part("db", plan, question, segments=segments, growing=growing)


def count(items):
    return CountRows(fragment=pack(items.plan, None))


def counted(answer):
    return sum(piece.passing for piece in answer.pieces)


def test_a_plan_names_segments_in_files_and_counts_rows_in_the_log(items, node):
    plan = planned(node, items)
    assert [size for _, size in plan.segments] == [100]
    assert (plan.growing_rows, plan.version) == (50, items.version)


def test_a_plan_of_an_owner_and_of_a_follower_are_the_same(db, items, node):
    owner = QueryNode(db._engine, session(), SystemClock())
    assert planned(owner, items) == planned(node, items)
    items.delete(ids=[3, 120])
    items.flush()
    assert planned(owner, items) == planned(node, items)
    owner.close()


def test_rows_written_after_the_plan_are_not_counted(items, node, node_of):
    plan = planned(node, items)
    items.insert(rows(150, 170))
    items.delete(ids=[0, 101])
    for other in (node, node_of()):
        planned(other, items)  # it knows the newer rows
        assert counted(other.answer(asked(plan, count(items)))) == 150


def test_a_node_that_knows_less_looks_at_the_store(items, node, node_of):
    behind = node_of()
    planned(behind, items)
    items.insert(rows(150, 170))
    items.flush()
    plan = planned(node, items)
    assert counted(behind.answer(asked(plan, count(items)))) == 170


def test_after_a_flush_a_node_that_did_not_see_the_rows_in_the_log_says_so(items, node, node_of):
    plan = planned(node, items)
    items.flush()
    late = node_of()
    assert isinstance(late.answer(asked(plan, count(items))), Stale)
    in_files = late.answer(asked(plan, count(items), growing=False))
    assert counted(in_files) == 100
    assert counted(node.answer(asked(plan, count(items)))) == 150


def test_a_read_goes_on_over_segments_that_were_compacted(items, node, node_of):
    plan = planned(node, items)
    items.flush()
    items.delete(filter="id < 90")
    items.compact()
    planned(node, items)
    assert counted(node.answer(asked(plan, count(items)))) == 150
    part = asked(plan, count(items), growing=False)
    assert isinstance(node_of().answer(part), Stale)


def test_idle_reads_are_let_go(items, node_of):
    clock = ManualClock()
    node = node_of(clock)
    plan = planned(node, items)
    items.flush()
    items.delete(filter="id < 90")
    items.compact()
    clock.advance(IDLE_S + 1)
    planned(node, items)
    node.tend()
    assert isinstance(node.answer(asked(plan, count(items))), Stale)


def test_growing_segments_of_another_node_are_not_known(items, node, node_of):
    plan, other = planned(node, items), node_of()
    (piece,) = node.answer(read_part("db", plan, count(items), segments=(), growing=True)).pieces
    take = TakeRows(
        fragment=pack(items.plan, None), names=("id",), sealed={},
        growing={piece.segment_id: range(2)}, passing=True,
    )  # fmt: skip
    part = read_part("db", plan, take, segments=(), growing=True)
    assert node.answer(part).columns["id"].to_pylist() == [100, 101]
    assert isinstance(other.answer(part), Stale)


@pytest.mark.parametrize("flushed", [True, False])
def test_all_nodes_hide_what_had_outlived_its_time_when_the_read_was_planned(
    items, node, node_of, flushed
):
    if flushed:
        items.flush()
    items.set_ttl(3600)
    plan = planned(node, items)
    assert plan.now_ms > 0
    later = pa.scalar(plan.now_ms + 7_200_000).as_py()
    expired = read_part(
        "db", plan, count(items), segments=[s for s, _ in plan.segments],
        growing=plan.growing_rows > 0,
    )  # fmt: skip
    assert counted(node_of().answer(expired)) == 150
    found = node_of().answer(replace(expired, now_ms=later))
    assert isinstance(found, Stale) or counted(found) == 0


def test_an_older_version_is_read_as_it_was(items, node, node_of):
    old = items.version
    items.delete(filter="id < 50")
    items.insert(rows(150, 160))
    items.flush()
    plan = planned(node, items, version=old)
    assert counted(node_of().answer(asked(plan, count(items)))) == 150


def test_a_dropped_collection_is_an_error(db, items, node):
    plan = planned(node, items)
    db.drop_collection("items")
    with pytest.raises(NotFoundError, match="GV-608"):
        planned(node, items)
    assert plan.growing_rows == 50


def test_a_read_begins_anew_when_segments_are_others_than_planned(db, items, tmp_path):
    with spread_over(tmp_path, 2) as (client, nodes):
        found = client["items"]
        assert found.count() == 150
        rewrites = iter([lambda: (items.insert(rows(150, 160)), items.flush()), lambda: None])

        def rewrite(part):
            next(rewrites, lambda: None)()

        nodes.before = rewrite
        result = found.filter("id >= 0").collect()
        assert sorted(result["id"].tolist()) in (list(range(150)), list(range(160)))


def rewrite(items, nodes):
    """Put other segments in the place of all, and let nodes forget what reads saw."""
    items.flush()
    items.delete(filter="id < 90")
    items.compact()
    for node in nodes.nodes:
        node.close()
        planned(node, items)


def test_a_stream_that_gave_rows_says_that_it_was_cut_short(items, tmp_path):
    with spread_over(tmp_path, 2) as (client, nodes):
        pieces = client["items"].sort("n").to_batches(40)
        assert next(pieces).num_rows == 40
        rewrite(items, nodes)
        with pytest.raises(UnavailableError, match="GV-760"):
            list(pieces)


def test_a_stream_of_answers_goes_on_at_its_version_over_rewritten_segments(items, tmp_path):
    queries = np.repeat(np.arange(600, dtype=np.float32)[:, None] / 4, DIM, 1)
    with spread_over(tmp_path, 2) as (client, nodes):
        client.session = replace(client.session, memory_limit=1 << 20)
        search = client["items"].search(queries, k=20).select("query_id", "id", "distance", "n")
        wanted = search.to_arrow()
        pieces = search.to_batches()
        found = [next(pieces)]
        assert found[0].num_rows < len(wanted)
        rewrite(items, nodes)
        found += list(pieces)
        assert nodes.replans == 1
        assert pa.Table.from_batches(found).equals(wanted)


def test_reads_beside_writes_see_whole_versions(items, tmp_path):
    """Each write adds or takes ten rows; no read sees part of one."""
    import threading

    stop = threading.Event()
    errors = []

    def write():
        number = 150
        try:
            while not stop.is_set():
                items.insert(rows(number, number + 10))
                number += 10
                if number % 50 == 0:
                    items.flush()
                if number % 200 == 0:
                    items.compact()
        except Exception as error:
            errors.append(error)

    with spread_over(tmp_path, 2) as (client, _):
        found = client["items"]
        writer = threading.Thread(target=write)
        writer.start()
        try:
            seen = 0
            for _ in range(25):
                counted_rows = found.count()
                keys = found.collect()["id"]
                assert counted_rows % 10 == 0
                assert len(keys) % 10 == 0
                assert sorted(keys.tolist()) == list(range(len(keys)))
                assert counted_rows >= seen
                seen = len(keys)
        finally:
            stop.set()
            writer.join()
    assert not errors


def test_a_node_that_looked_at_the_manifest_alone_still_follows_the_plan(items, node, node_of):
    behind = node_of()
    planned(behind, items)
    items.insert(rows(150, 170))
    items.flush()
    items.delete(filter="id < 90")
    items.compact()
    host = behind._host
    host.state(items._source.collection_id)  # the manifest, not the rows
    plan = planned(node, items)
    assert counted(behind.answer(asked(plan, count(items)))) == 80
