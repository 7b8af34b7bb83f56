"""What a client may do is what the catalogue says, also where it could not be read at first."""

import pytest

from gpuvec import errors
from gpuvec.meta.access import Access, User
from gpuvec.proxy.guard import Guard


def test_nothing_is_allowed_because_the_catalogue_could_not_be_read():
    answers = [errors.no_workers(), Access(users={"ann": User(secret="", roles=())})]

    def look():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    guard = Guard("ann", look, str, lambda: 0.0)
    with pytest.raises(errors.UnavailableError):
        guard.read("items")
    with pytest.raises(errors.AccessDeniedError) as caught:
        guard.read("items")
    assert caught.value.code == "GV-721"


def test_the_catalogue_is_read_once_in_five_seconds():
    now, looks = [0.0], []
    guard = Guard("", lambda: looks.append(1) or Access(), str, lambda: now[0])
    for now[0] in (0.0, 4.9, 5.0, 9.9):
        guard.read("items")
    assert len(looks) == 2
