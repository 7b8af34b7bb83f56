"""A database whose files were copied to another kind of store: no write is passed over silently."""

import pytest

from gpuvec.errors import UnsupportedError
from gpuvec.storage.memory import MemoryStore
from gpuvec.testing.channels import delete, flush, insert, new_store, open_channel, visible, write


def moved(store, *, appendable):
    """Return a store of another kind with the same objects."""
    other = MemoryStore(appendable=appendable)
    for key in store.list(""):
        other.put(key, [store.get(key)])
    return other


@pytest.fixture(params=[True, False], ids=["from a directory", "from a bucket"])
def origin(request):
    return new_store(appendable=request.param)


def test_what_is_in_segments_comes_along_from_a_directory():
    origin = new_store(appendable=True)
    owner = open_channel(origin)
    write(owner, insert("1", 1, 2), delete("2", 2))
    flush(owner)
    other = moved(origin, appendable=False)
    assert visible(open_channel(other)) == {1}
    write(open_channel(other), insert("3", 3))
    assert visible(open_channel(other)) == {1, 3}
    again = open_channel(other)
    write(again, insert("4", 4))
    flush(again)
    write(again, insert("5", 5))
    assert visible(open_channel(other)) == {1, 3, 4, 5}
    assert not [key for key in other.list("") if key.endswith(".log")]


@pytest.mark.parametrize("flushed", [True, False])
def test_what_is_only_in_the_log_is_refused_by_readers_and_writers(origin, flushed):
    owner = open_channel(origin)
    if flushed:
        write(owner, insert("1", 1))
        flush(owner)
    write(owner, insert("2", 2))
    other = moved(origin, appendable=not origin.appendable)
    before = other.list("")
    with pytest.raises(UnsupportedError, match="gpuvec copy") as caught:
        open_channel(other)
    assert caught.value.code == "GV-562"
    assert caught.value.details["in_files"] == origin.appendable
    assert other.list("") == before
    assert visible(open_channel(origin)) == ({1, 2} if flushed else {2})


def test_files_left_behind_by_a_claim_that_died_do_no_harm():
    origin = new_store(appendable=True)
    owner = open_channel(origin)
    write(owner, insert("1", 1))
    flush(owner)
    other = moved(origin, appendable=False)
    logs = {key: other.get(key) for key in other.list("") if key.endswith(".log")}
    assert logs
    new = open_channel(other)
    write(new, insert("2", 2))
    flush(new)
    for key, data in logs.items():
        other.put(key, [data])  # as if the truncation had not come to it
    assert visible(open_channel(other)) == {1, 2}
    write(open_channel(other), insert("3", 3))
    assert visible(open_channel(other)) == {1, 2, 3}
