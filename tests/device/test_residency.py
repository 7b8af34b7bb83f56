"""Memory of a card without a card: what is booked, what stays, what goes, who waits for whom."""

import gc
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuvec.device.budget import PARTS, Budget
from gpuvec.device.memory import Memory
from gpuvec.device.residency import DeviceStore, Residency
from gpuvec.device.turns import Turns
from gpuvec.errors import DeviceMemoryError, ResultTooLargeError
from gpuvec.settings import config


class Card:
    """A card of so many bytes; what others take of it can change."""

    def __init__(self, total=1000, free=None):
        self.total, self.free = total, total if free is None else free
        self.tidied = 0

    def memory(self):
        return Memory(total=self.total, free=self.free)

    def tidy(self):
        self.tidied += 1


def residency(total=1000, card=None):
    card = card or Card(total * 10)
    return Residency(Budget(card.memory), card.tidy)


@pytest.fixture
def limit():
    """Set the budget of device memory in bytes."""
    with config.set():

        def change(size):
            config.set(device__memory_limit=size)

        yield change


def hold(store, name, size, generation=0, owner="", part="vectors"):
    with store.use((name, generation, "v"), size, object, part=part, owner=owner):
        pass


def there(store, *names):
    return [name for name in names if store.has((name, 0, "v"))]


@pytest.mark.parametrize(
    ("chosen", "total", "free", "limit_bytes"),
    [(None, 1000, 1000, 900), (None, 1000, 500, 450), (300, 1000, 1000, 300),
     (0.5, 1000, 1000, 500), (800, 1000, 500, 450)],
)  # fmt: skip
def test_a_budget_is_what_was_chosen_or_less_if_the_card_has_less(
    chosen, total, free, limit_bytes, limit
):
    limit(chosen)
    assert Budget(Card(total, free).memory).limit_bytes == limit_bytes


def test_a_part_that_passes_the_budget_is_refused_with_what_is_in_use_and_remedies(limit):
    limit(1000)
    budget = Budget(Card(10_000).memory)
    budget.take("indexes", 600, what="x")
    with pytest.raises(DeviceMemoryError, match="needs 500 bytes of device memory") as caught:
        budget.take("vectors", 500, what="vectors of a segment")
    assert caught.value.code == "GV-903"
    assert caught.value.details["parts"]["indexes"] == 600
    assert caught.value.details["free"] == 400
    assert caught.value.hint.count(";") == 2  # three remedies
    assert budget.held_bytes == 600


def test_scratch_is_between_least_and_most_and_given_back(limit):
    limit(1000)
    budget = Budget(Card(10_000).memory)
    with budget.scratch(10, 100, what="x") as few, budget.scratch(10, 10_000, what="x") as many:
        assert few == 100
        assert 10 <= many <= 900
    with budget.scratch(900, 900, what="x") as all_of_it:
        assert all_of_it == 900
    assert budget.held_bytes == 0
    with pytest.raises(DeviceMemoryError), budget.scratch(1001, 2000, what="x"):
        pass


def test_what_was_used_longest_ago_goes_first(limit):
    limit(1000)
    store = DeviceStore(residency())
    for name in "abc":
        hold(store, name, 250)
    hold(store, "a", 250)
    hold(store, "d", 250)
    assert there(store, *"abcd") == ["a", "c", "d"]


def test_nothing_that_is_used_goes(limit):
    limit(1000)
    store = DeviceStore(residency())
    with store.use(("a", 0, "v"), 500, object), pytest.raises(DeviceMemoryError):
        hold(store, "b", 400)
    assert there(store, "a", "b") == ["a"]


def test_what_stays_leaves_a_share_to_searches(limit):
    limit(1000)
    store = DeviceStore(residency())
    assert store.fits(750)
    assert not store.fits(751)
    hold(store, "a", 750)
    with store.budget.scratch(250, 250, what="x"):
        assert store.has(("a", 0, "v"))
    with store.budget.scratch(300, 300, what="x"):  # needed: something must go
        assert not store.has(("a", 0, "v"))


def test_another_generation_puts_the_things_of_the_former_out(limit):
    limit(1000)
    store = DeviceStore(residency())
    hold(store, "a", 100, generation=1)
    hold(store, "b", 100, generation=1)
    hold(store, "a", 100, generation=2)
    assert [store.has((name, 1, "v")) for name in "ab"] == [False, True]
    assert store.budget.held_bytes == 200


def test_what_goes_while_it_is_used_is_booked_out_when_it_is_left(limit):
    limit(1000)
    store = DeviceStore(residency())
    with store.use(("a", 1, "v"), 100, object) as value:
        hold(store, "a", 100, generation=2)
        assert value is not None
        assert store.budget.held_bytes == 200
    assert store.budget.held_bytes == 100


def test_a_pinned_collection_stays_and_goes_when_it_is_released(limit):
    limit(1000)
    store = DeviceStore(residency())
    store.pin("items")
    hold(store, "a", 400, owner="items")
    assert not store.fits(400)
    with pytest.raises(DeviceMemoryError):
        hold(store, "b", 400, owner="others")
    store.release("items")
    assert store.budget.held_bytes == 0
    hold(store, "b", 400)


def test_stores_share_the_budget_and_not_the_keys(limit):
    limit(1000)
    shared = residency()
    first, second = DeviceStore(shared), DeviceStore(shared)
    hold(first, "a", 400)
    assert not second.has(("a", 0, "v"))
    hold(second, "a", 400)
    assert not first.has(("a", 0, "v"))


def test_a_store_that_nobody_has_any_more_holds_nothing(limit):
    limit(1000)
    shared = residency()
    store, other = DeviceStore(shared), DeviceStore(shared)
    hold(store, "a", 700)
    del store
    gc.collect()
    hold(other, "b", 100)
    assert shared.budget.held_bytes == 100


def test_making_is_done_once_for_many_threads_and_a_failure_leaves_nothing(limit):
    limit(1000)
    store = DeviceStore(residency())
    made = []

    def make():
        time.sleep(0.02)
        made.append(1)
        return object()

    def work():
        with store.use(("a", 0, "v"), 100, make) as value:
            assert value is not None

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1

    def fail():
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"), store.use(("b", 0, "v"), 100, fail):
        pass
    assert store.budget.held_bytes == 100
    hold(store, "b", 100)


def test_work_that_lacks_memory_beside_others_is_done_again_alone(limit):
    limit(1000)
    store = DeviceStore(residency())
    inside, go = threading.Event(), threading.Event()
    attempts = []

    def other():
        def hold_most():
            with store.budget.scratch(900, 900, what="other"):
                inside.set()
                go.wait(10)

        store.run(hold_most)

    def work():
        attempts.append(1)
        go.set()
        with store.budget.scratch(500, 500, what="mine"):
            return 7

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    assert store.run(work) == 7
    thread.join()
    assert len(attempts) == 2


def test_a_card_that_has_run_out_is_tried_again_with_everything_let_go_and_less_scratch(limit):
    limit(8000)
    card = Card(10_000)
    store = DeviceStore(residency(card=card))
    hold(store, "a", 100)
    grants = []

    def work():
        with store.budget.scratch(1, 4000, what="x") as size:
            grants.append(size)
            if size > 800:
                raise MemoryError("cudaErrorMemoryAllocation: out of memory")
            return size

    assert store.run(work) == grants[-1] <= 800
    assert grants == sorted(grants, reverse=True)
    assert not store.has(("a", 0, "v"))
    assert card.tidied > 0


@pytest.mark.parametrize(
    "error",
    [MemoryError("std::bad_alloc: out_of_memory: CUDA error"),
     RuntimeError("Error: 'err == cudaSuccess' failed: cudaMalloc error out of memory")],
)  # fmt: skip
def test_a_card_that_others_fill_is_an_error_with_parts_and_remedies(limit, error):
    limit(1000)
    card = Card(1000, free=900)
    store = DeviceStore(residency(card=card))

    def work():
        card.free = 10
        raise error

    with pytest.raises(DeviceMemoryError, match="10 bytes of its") as caught:
        store.run(work, what="a search of items")
    assert caught.value.code == "GV-904"
    assert "others hold" in str(caught.value)
    assert set(caught.value.details["parts"]) == set(PARTS)


def test_other_errors_pass_and_work_is_done_once(limit):
    limit(1000)
    store = DeviceStore(residency())
    for error in (
        ValueError("x"),
        RuntimeError("illegal memory access"),
        ResultTooLargeError("GV-420", "x"),
        np.exceptions.AxisError("x"),
    ):
        calls = []

        def work(error=error, calls=calls):
            calls.append(1)
            raise error

        with pytest.raises(type(error)):
            store.run(work)
        assert len(calls) == 1


def test_host_memory_that_lacks_is_no_matter_of_the_card(limit):
    limit(1000)
    store = DeviceStore(residency())
    with pytest.raises(MemoryError) as caught:
        store.run(lambda: np.empty(1 << 50, np.uint8))
    assert not isinstance(caught.value, DeviceMemoryError)


def test_who_is_alone_waits_for_those_that_share_and_nobody_else_comes_in():
    turns = Turns()
    log = []
    entered, leave = threading.Event(), threading.Event()

    def share():
        with turns.shared(), turns.shared():
            entered.set()
            leave.wait(10)
            log.append("shared")

    def alone():
        with turns.alone():
            log.append("alone")
            with turns.shared():
                log.append("within")

    first = threading.Thread(target=share)
    first.start()
    entered.wait(10)
    second = threading.Thread(target=alone)
    second.start()
    time.sleep(0.02)
    assert log == []
    leave.set()
    first.join()
    second.join()
    assert log == ["shared", "alone", "within"]
    with turns.shared():
        assert turns.inside
    assert not turns.inside


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["use", "nest", "scratch", "pin", "release", "limit"]),
        st.integers(0, 5),
        st.integers(1, 700),
    ),
    max_size=40,
)


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_whatever_is_done_the_budget_is_kept_and_nothing_stays_booked(steps):
    """Random steps: booked bytes are those of what is there, and never beyond the budget."""
    with config.set(device__memory_limit=1000):
        shared = residency()
        store, budget = DeviceStore(shared), shared.budget
        for what, number, size in steps:
            owner = f"owner{number % 2}"
            try:
                if what == "use":
                    hold(store, number, 100 * (number + 1), owner=owner)
                elif what == "nest":
                    with store.use((number, 0, "v"), 100 * (number + 1), object, owner=owner):
                        hold(store, (number + 1) % 6, 100 * ((number + 1) % 6 + 1))
                elif what == "scratch":
                    with budget.scratch(size, 2 * size, what="x") as got:
                        assert size <= got <= 2 * size
                elif what == "pin":
                    store.pin(owner)
                elif what == "release":
                    store.release(owner)
                else:
                    config.set(device__memory_limit=300 + size)
            except DeviceMemoryError:
                pass  # a refusal; what it leaves is looked at
            sizes = sum(100 * (n + 1) for n in range(6) if store.has((n, 0, "v")))
            assert budget.held_bytes == sizes
        assert budget.peak_bytes <= 1000
        store.close()
        assert budget.held_bytes == 0


@pytest.mark.parametrize("seed", range(3))
def test_threads_that_share_a_small_card_all_finish_whatever_each_could_do_alone(limit, seed):
    limit(1000)
    shared = residency()
    store = DeviceStore(shared)
    done, errors = [], []

    def one(rng):
        sizes = rng.integers(1, 11, 2) * 37  # together within what may stay
        least = int(rng.integers(1, 250))

        def work():
            first, second = rng.integers(0, 9, 2).tolist()
            with (
                store.use((first, 0, "v"), int(sizes[0]), object),
                store.use((second, 0, "v"), int(sizes[1]), object),
                store.budget.scratch(least, 4 * least, what="x"),
            ):
                assert shared.budget.held_bytes <= 1000
            return 1

        done.append(store.run(work))

    def many(number):
        rng = np.random.default_rng([seed, number])
        try:
            for _ in range(100):
                one(rng)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=many, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors
    assert len(done) == 800
    assert shared.budget.parts()["scratch"] == 0
