import threading

import pytest

from gpuvec.errors import CorruptError
from gpuvec.storage.memory import MemoryStore
from gpuvec.storage.open import open_store
from gpuvec.storage.read_ahead import WINDOW, WINDOW_BYTES, ReadAhead

KEYS = [f"log/{number:03d}" for number in range(100)]


class Counted:
    """A store in memory; `asked` are the fetches, in any order within one call."""

    def __init__(self, size=1, keys=KEYS):
        self.store = MemoryStore()
        self.asked = []
        self.ahead = ReadAhead(self.fetch)
        for key in keys:
            self.store.put(key, [key.encode() * size])

    def fetch(self, key):
        self.asked.append(key)
        return self.store.get(key)


def test_who_reads_in_order_gets_the_rest_ahead():
    c = Counted()
    c.ahead.note(KEYS)
    assert c.ahead.get(KEYS[0]) == KEYS[0].encode()
    assert c.asked == KEYS[:1]
    assert c.ahead.get(KEYS[1]) == KEYS[1].encode()
    assert sorted(c.asked) == KEYS[: 1 + WINDOW]
    assert [c.ahead.get(key) for key in KEYS[2:]] == [key.encode() for key in KEYS[2:]]
    assert sorted(c.asked) == KEYS


def test_nothing_is_fetched_for_who_reads_here_and_there():
    c = Counted()
    c.ahead.get(KEYS[0])
    c.ahead.get(KEYS[1])
    c.ahead.note(KEYS)
    for number in (5, 3, 99, 50):
        c.ahead.get(KEYS[number])
    assert c.asked == [KEYS[n] for n in (0, 1, 5, 3, 99, 50)]


def test_large_objects_are_not_fetched_ahead():
    c = Counted(size=WINDOW_BYTES // len(KEYS[0]) // 2, keys=KEYS[:8])
    c.ahead.note(KEYS[:8])
    c.ahead.get(KEYS[0])
    c.ahead.get(KEYS[1])
    assert sorted(c.asked) == KEYS[:3]


def test_a_new_list_and_other_calls_forget_what_was_fetched():
    for other in (lambda c: c.ahead.forget(), lambda c: c.ahead.note(KEYS)):
        c = Counted()
        c.ahead.note(KEYS)
        c.ahead.get(KEYS[0])
        c.ahead.get(KEYS[1])
        c.store.put(KEYS[2], [b"new"])
        other(c)
        assert c.ahead.get(KEYS[2]) == b"new"


def test_what_was_fetched_is_served_once():
    c = Counted()
    c.ahead.note(KEYS)
    for key in KEYS[:3]:
        c.ahead.get(key)
    c.store.put(KEYS[2], [b"new"])
    assert c.ahead.get(KEYS[2]) == b"new"


def test_an_error_is_met_by_who_asks_for_that_object():
    c = Counted()
    c.store.delete([KEYS[4]])
    c.ahead.note(KEYS)
    for key in KEYS[:4]:
        assert c.ahead.get(key) == key.encode()
    with pytest.raises(CorruptError, match=KEYS[4]):
        c.ahead.get(KEYS[4])
    assert c.ahead.get(KEYS[5]) == KEYS[5].encode()


def test_threads_do_not_see_one_anothers_lists():
    c = Counted()
    c.ahead.note(KEYS)
    c.ahead.get(KEYS[0])
    other = threading.Thread(target=lambda: [c.ahead.get(key) for key in KEYS[:5]])
    other.start()
    other.join()
    assert c.asked == [KEYS[0], *KEYS[:5]]


def test_a_bucket_reads_ahead_until_it_writes(s3):
    url = s3.new_url()
    mine, other = (open_store(url, s3.options) for _ in range(2))
    for key in KEYS[:6]:
        mine.put(key, [key.encode()])
    for write in (
        lambda: mine.put("k", [b"x"]),
        lambda: mine.put_if_absent(f"n{len(mine.list(''))}", b"x"),
        lambda: mine.delete(["k"]),
        lambda: mine.list("log/"),
    ):
        other.put(KEYS[3], [b"old"])
        assert mine.list("log/") == KEYS[:6]
        mine.get(KEYS[0])
        mine.get(KEYS[1])
        other.put(KEYS[3], [b"new"])
        write()
        assert mine.get(KEYS[3]) == b"new"
