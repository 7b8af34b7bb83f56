"""Properties computed once: without a lock that all objects share."""

import threading

from gpuvec.once import cached_property


class Made:
    def __init__(self, make):
        self.make = make
        self.times = 0

    @cached_property
    def value(self):
        """What is made."""
        self.times += 1
        return self.make()


def test_a_property_is_computed_once_and_can_be_forgotten():
    made = Made(object)
    assert made.value is made.value
    assert made.times == 1
    del made.__dict__["value"]
    assert made.value is not None
    assert made.times == 2
    assert Made.value.__doc__ == "What is made."


def test_two_objects_are_computed_at_the_same_time():
    both = threading.Barrier(2)
    made = [Made(lambda: both.wait(20)) for _ in range(2)]
    threads = [threading.Thread(target=lambda each=each: each.value) for each in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.value for each in made) == [0, 1]


def test_threads_that_come_at_once_get_the_same_value():
    both = threading.Barrier(2)

    def make():
        both.wait(20)
        return object()

    made, seen = Made(make), []
    threads = [threading.Thread(target=lambda: seen.append(made.value)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen[0] is seen[1]
