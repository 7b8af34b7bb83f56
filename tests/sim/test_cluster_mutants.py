"""A cluster with one rule removed: the simulation must find what breaks."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from gpuvec.cluster.commits import OwnersLog
from gpuvec.cluster.grants import Grants
from gpuvec.cluster_messages import Done
from gpuvec.coord import cluster_coord, ownership
from gpuvec.coord.ownership import Ownership
from gpuvec.errors import GpuvecError, no_committer
from gpuvec.proxy import route_table
from gpuvec.proxy.reading import Reading
from gpuvec.proxy.route_table import RouteTable
from gpuvec.storage.object_store import Ask, Nonce
from gpuvec.testing import sim_coordinator, sim_node
from gpuvec.testing.sim import Violation
from gpuvec.testing.sim_cluster import ClusterSimulation
from gpuvec.testing.sim_network import Weather
from gpuvec.testing.sim_node import Claimed, SimNode
from gpuvec.testing.sim_store import Shelf
from gpuvec.work_messages import Behind, Committed


class Parted(ClusterSimulation):
    """Nobody dies, but processes are cut off from each other, and messages come very late."""

    weathers = (Weather(late=0.05, late_s=(2.0, 5.0, 9.0)),)

    def faults(self):
        return self.partitions()


@dataclass(frozen=True)
class Mutant:
    """A rule removed.

    Attributes:
        apply: of a monkeypatch.
        world: the simulation.
        start: seed of the first world.
        seeds: worlds that must be enough.
    """

    apply: Callable
    world: type[ClusterSimulation] = ClusterSimulation
    start: int = 0
    seeds: int = 300


# The coordinator


def a_lost_owner_is_replaced_before_its_lease_has_run_out(monkeypatch):
    review = Ownership._review

    def hasty(self, collection_id, grant, now_s):
        grant.lease_s = now_s
        review(self, collection_id, grant, now_s)

    monkeypatch.setattr(Ownership, "_review", hasty)


def leases_of_a_former_coordinator_are_not_waited_for(monkeypatch):
    init = Ownership.__init__

    def without(self, *args, **options):
        init(self, *args, **{**options, "quarantine_s": 0.0})

    monkeypatch.setattr(Ownership, "__init__", without)


def a_replaced_coordinator_goes_on_to_renew(monkeypatch):
    monkeypatch.setattr(Ownership, "note_ruling", lambda self, looked_s: None)
    monkeypatch.setattr(Ownership, "_may_lease", lambda self, collection_id, now_s: True)

    class Blind(sim_coordinator.SimCoordinator):
        def _is_replaced(self):
            return False

    monkeypatch.setattr("gpuvec.testing.sim_cluster.SimCoordinator", Blind)


def commands_are_sent_once(monkeypatch):
    monkeypatch.setattr(Ownership, "note_unanswered", lambda *_: None)
    monkeypatch.setattr(ownership, "_ASK_AGAIN_S", 1e9)


def silence_of_nodes_is_not_noticed(monkeypatch):
    monkeypatch.setattr(cluster_coord, "_SILENT_LEASES", 1e9)


# Nodes


def a_grant_is_a_lease(monkeypatch):
    own = Grants.own

    def eager(self, order):
        news = own(self, order)
        if news:
            self._held[order.collection_id].until_s = self._now_s() + order.lease_s
        return news

    monkeypatch.setattr(Grants, "own", eager)


def an_owner_without_a_lease_does_not_look(monkeypatch):
    monkeypatch.setattr(SimNode, "_knows_all", lambda self, name: True)


def a_hand_over_is_acknowledged_and_not_done(monkeypatch):
    def forgetful(self, order):
        yield 0.0
        return Done()

    monkeypatch.setattr(SimNode, "_disown", forgetful)


def retries_are_not_known_after_a_claim(monkeypatch):
    def short(self, request):
        return next((ts for ts, name in self.view.tail[-1:] if name == request), None)

    monkeypatch.setattr(Claimed, "done", short)


def a_guess_is_answered_for_whatever_the_plan_is(monkeypatch):
    monkeypatch.setattr(sim_node, "is_of", lambda part, plan: True)
    monkeypatch.setattr(Reading, "_settle", lambda self, groups: None)


# The store


def a_claim_does_not_fence_the_log(monkeypatch):
    def append(self, epoch, record):
        self.records = (*self.records, record)

    monkeypatch.setattr(Shelf, "append", append)


# Commits


def a_request_that_comes_again_is_done_again(monkeypatch):
    def commit_once(log, view, order, generation):
        view = yield from log.read(view)
        nonce = yield Nonce()
        made = yield from log.append(
            view, order.changes, nonce=nonce, generation=generation, committer=order.committer
        )
        if made is None:
            return view, Behind(entry_id=view.entry_id)
        return made[0], Committed(generation=generation, time_ms=0)

    monkeypatch.setattr(sim_coordinator, "commit_once", commit_once)


def a_request_is_asked_for_again_under_another_id(monkeypatch):
    done = OwnersLog._done

    def forgetful(self, order, view):
        nonce = yield Nonce()
        procedure = done(self, replace(order, request_id=nonce), view)
        question = next(procedure)
        try:
            while True:
                if isinstance(question, Ask):
                    nonce = yield Nonce()
                    question = Ask(replace(question.message, request_id=nonce))
                try:
                    answer = yield question
                except GpuvecError as error:
                    question = procedure.throw(error)
                else:
                    question = procedure.send(answer)
        except StopIteration as end:
            return end.value

    monkeypatch.setattr(OwnersLog, "_done", forgetful)


def a_commit_of_an_old_term_is_accepted(monkeypatch):
    monkeypatch.setattr(sim_coordinator, "check_order", lambda *_: None)


def a_commit_without_an_answer_counts_as_not_done(monkeypatch):
    def hasty(self, order, view):
        try:
            answer = yield Ask(order)
        except GpuvecError as error:
            raise no_committer(order.collection_id, "no answer") from error
        return None if isinstance(answer, Behind) else answer

    monkeypatch.setattr(OwnersLog, "_done", hasty)


# Clients


def routes_apply_in_the_order_in_which_they_come(monkeypatch):
    def apply(self, delta):
        self._routes = route_table._after(self._routes, delta)

    monkeypatch.setattr(RouteTable, "apply", apply)


MUTANTS = [
    Mutant(a_lost_owner_is_replaced_before_its_lease_has_run_out, start=14),
    Mutant(leases_of_a_former_coordinator_are_not_waited_for, start=19),
    Mutant(a_replaced_coordinator_goes_on_to_renew, start=19),
    Mutant(commands_are_sent_once),
    Mutant(silence_of_nodes_is_not_noticed),
    Mutant(a_grant_is_a_lease, start=19),
    Mutant(an_owner_without_a_lease_does_not_look, world=Parted, start=46),
    Mutant(a_hand_over_is_acknowledged_and_not_done, start=3),
    Mutant(retries_are_not_known_after_a_claim, start=8),
    Mutant(a_claim_does_not_fence_the_log, start=70),
    Mutant(a_request_that_comes_again_is_done_again, start=7),
    Mutant(a_request_is_asked_for_again_under_another_id, start=4),
    Mutant(a_commit_of_an_old_term_is_accepted),
    Mutant(a_commit_without_an_answer_counts_as_not_done),
    Mutant(routes_apply_in_the_order_in_which_they_come),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.apply.__name__)
def test_what_breaks_without_a_rule_is_found(mutant, monkeypatch):
    mutant.apply(monkeypatch)
    with pytest.raises(Violation):
        run(mutant)


def run(mutant: Mutant) -> None:
    for seed in range(mutant.start, mutant.start + mutant.seeds):
        mutant.world(seed).run()
