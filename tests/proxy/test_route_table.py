"""Routes: whatever order changes come in, the table ends where the coordinator is."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuvec.cluster_messages import NodeLine, Owner, RouteDelta
from gpuvec.proxy.route_table import Routes, RouteTable
from gpuvec.types import NodeId, SegmentId

DB = "db"
A, B, C = NodeId("a"), NodeId("b"), NodeId("c")


def line(node, **changes):
    values = {"incarnation": "1", "address": f"tcp://{node}", **changes}
    return NodeLine(node=node, **values)


def delta(epoch, *, generation=1, **changes):
    return RouteDelta(identity=DB, generation=generation, epoch=epoch, **changes)


def whole(epoch, *, generation=1, **changes):
    return delta(epoch, generation=generation, whole=True, **changes)


def owner(node, term, generation=0):
    return Owner(collection_id="c", node=node, address="x", term=term, generation=generation)


def serves(*nodes, segment="s"):
    return {"c": {SegmentId(segment): nodes}}


@pytest.fixture
def table():
    made = RouteTable(DB)
    made.apply(whole(1, segments=serves(A, B), nodes=(line(A), line(B))))
    return made


def test_a_new_table_is_behind_until_it_has_the_whole():
    table = RouteTable(DB)
    assert table.behind
    table.apply(delta(2, segments=serves(A)))
    assert table.routes == Routes()
    assert table.behind
    table.apply(whole(1, segments=serves(B)))
    assert table.routes.serving("c", SegmentId("s")) == (A,)
    assert not table.behind


def test_changes_apply_in_the_order_of_their_epochs(table):
    table.apply(delta(3, segments=serves(B)))
    assert table.behind
    assert table.routes.epoch == 1
    table.apply(delta(2, segments=serves(A)))
    assert table.routes.epoch == 3
    assert table.routes.serving("c", SegmentId("s")) == (B,)
    assert not table.behind


def test_doubled_and_late_changes_do_nothing(table):
    table.apply(delta(2, segments=serves(B)))
    before = table.routes
    table.apply(delta(2, segments=serves(B)))
    table.apply(delta(1, segments=serves(C)))
    table.apply(whole(1, segments=serves(C)))
    assert table.routes == before
    assert not table.behind


def test_a_former_coordinator_is_not_heard(table):
    table.apply(whole(1, generation=2, segments=serves(C), nodes=(line(C),)))
    table.apply(delta(2, generation=1, segments=serves(A)))
    table.apply(whole(9, generation=1, segments=serves(A)))
    assert table.routes.generation == 2
    assert table.routes.serving("c", SegmentId("s")) == (C,)


def test_a_new_coordinator_makes_the_table_fetch_and_old_routes_serve_until_then(table):
    table.apply(delta(2, generation=2, segments=serves(B)))
    assert table.behind
    assert table.routes.serving("c", SegmentId("s")) == (A, B)
    table.apply(delta(2, generation=1, segments=serves(A)))
    assert table.routes.serving("c", SegmentId("s")) == (A, B)
    table.apply(whole(1, generation=2, segments=serves(A)))
    assert table.routes.serving("c", SegmentId("s")) == (B,)
    assert not table.behind


def test_a_lost_node_leaves_every_route_at_once(table):
    table.apply(delta(2, lost=(A,)))
    assert table.routes.serving("c", SegmentId("s")) == (B,)
    assert list(table.routes.nodes) == [B]
    table.apply(delta(3, lost=(B,)))
    assert table.routes.segments == {}


def test_a_node_that_comes_back_in_the_same_change_stands(table):
    table.apply(delta(2, lost=(A,), nodes=(line(A, incarnation="2"),)))
    assert table.routes.nodes[A].incarnation == "2"
    assert table.routes.serving("c", SegmentId("s")) == (B,)


def test_a_segment_without_nodes_has_no_route(table):
    table.apply(delta(2, segments=serves()))
    assert table.routes.serving("c", SegmentId("s")) == ()
    assert table.routes.segments == {}


def test_a_node_that_drains_takes_work_last(table):
    table.apply(delta(2, nodes=(line(A, draining=True), line(C))))
    assert table.routes.standing() == [B, C, A]


def test_changes_of_other_databases_are_left_alone(table):
    before = table.routes
    table.apply(RouteDelta(identity="other", generation=9, epoch=9, whole=True))
    assert table.routes == before


def test_an_owner_of_an_older_term_does_not_count(table):
    assert table.note_owner(owner(A, 3)).node == A
    assert table.note_owner(owner(B, 2)).node == A
    table.apply(delta(2, owners={"c": owner(B, 2)}))
    assert table.owner("c").node == A
    table.apply(delta(3, owners={"c": owner(B, 4)}))
    assert table.owner("c").node == B


def test_terms_of_a_later_generation_come_after_all_of_an_earlier_one(table):
    table.note_owner(owner(A, 30, generation=1))
    assert table.note_owner(owner(B, 1, generation=2)).node == B
    assert table.behind  # its routes are still those of the former one
    assert table.note_owner(owner(A, 31, generation=1)).node == B


def test_the_whole_keeps_an_owner_that_was_named_after_it_was_cut(table):
    table.note_owner(owner(A, 3))
    table.apply(whole(5, owners={"c": owner(B, 2)}))
    assert table.owner("c").node == A
    table.apply(whole(1, generation=2))
    assert table.owner("c") is None


def test_a_dropped_collection_is_forgotten(table):
    table.note_owner(owner(A, 3))
    table.forget_collection("c")
    assert table.owner("c") is None
    assert table.routes.segments == {}


def history(seed, length):
    """Return changes of two coordinators, and the whole after each."""
    rng = random.Random(seed)
    made, wholes = [], []
    for generation in (1, 2):
        state = RouteTable(DB)
        state.apply(whole(0, generation=generation))
        made.append(whole(0, generation=generation))
        for epoch in range(1, length + 1):
            some = [node for node in (A, B, C) if rng.random() < 0.5]
            change = delta(
                epoch,
                generation=generation,
                segments=serves(*some, segment=f"s{rng.randrange(4)}"),
                nodes=tuple(line(n, queue=rng.randrange(9)) for n in some[:1]),
                lost=tuple(n for n in (A, B, C) if n not in some and rng.random() < 0.3),
                owners={"c": owner(rng.choice([A, B]), epoch)} if rng.random() < 0.3 else {},
            )
            state.apply(change)
            made.append(change)
            at = state.routes
            wholes.append(
                whole(
                    epoch,
                    generation=generation,
                    segments=at.segments,
                    owners=at.owners,
                    nodes=tuple(at.nodes.values()),
                )
            )
    return made, wholes, state.routes


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), length=st.integers(1, 12))
def test_any_order_with_doubles_ends_where_the_coordinator_is(seed, length):
    made, wholes, end = history(seed, length)
    rng = random.Random(seed)
    said = made * 2 + rng.sample(wholes, k=min(2, len(wholes)))
    rng.shuffle(said)
    table = RouteTable(DB)
    for change in said:
        before = table.routes
        table.apply(change)
        after = table.routes
        assert (after.generation, after.epoch) >= (before.generation, before.epoch)
    assert table.routes == end
    assert not table.behind


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), length=st.integers(1, 12))
def test_lost_changes_are_made_good_by_the_whole(seed, length):
    made, wholes, end = history(seed, length)
    rng = random.Random(seed)
    table = RouteTable(DB)
    for change in made:
        if rng.random() < 0.6:
            table.apply(change)
    last = made[-1]
    table.apply(last)
    if (table.routes.generation, table.routes.epoch) != (2, length):
        assert table.behind
        table.apply(wholes[-1])
    assert table.routes == end
    assert not table.behind
