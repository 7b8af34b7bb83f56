"""Whether a store keeps two writers apart: tried out before the first write.

A server, or a proxy in front of it, may ignore the condition of a create, refuse it, or let several
creators of one key win. Two writers would then overwrite one another's log, so such a store is
refused.

1. create a key; 2. create it again: its bytes stay; 3. list it; 4. let four threads create another
key: one wins, and its bytes are there; 5. delete both. An answer may get lost: what a key holds
decides, as everywhere.

What a died probe leaves is deleted by a later one. Cost: about ten requests, four of them at once.
"""

import secrets
import threading
import time
from contextlib import suppress
from typing import NoReturn

from gpuvec import errors
from gpuvec.errors import CorruptError, StorageError
from gpuvec.storage import keys
from gpuvec.storage.object_store import ObjectStore

RACERS = 4
_TRIES = 3
_UNSAFE = "GV-531"
_LEFT_BEHIND_MS = 3_600_000


def probe(store: ObjectStore, where: str) -> None:
    """Return if the store can be written to by several processes.

    Args:
        store: where a database lies, or shall lie.
        where: its name, for messages.

    Raises:
        StorageError: `GV-531`, it does not keep writers apart; else whatever else keeps it from
            being written to: it cannot be reached, or denies a right.
    """
    folder = keys.probe(keys.ulid(time.time_ns() // 1_000_000, secrets.token_hex(16)))
    first, second = f"{folder}/1", f"{folder}/2"
    try:
        _create_twice(store, where, first)  # 1, 2
        if first not in store.list(f"{folder}/"):  # 3
            _refuse(where, "to list a key that was just created", "a list without it")
        _race(store, where, second)  # 4
    except BaseException:
        with suppress(StorageError):
            store.delete([first, second])
        raise
    store.delete([first, second, *_left_behind(store)])  # 5


def _create_twice(store: ObjectStore, where: str, key: str) -> None:
    mine, other = _body(), _body()
    said = _try_to_create(store, key, mine)
    if _read(store, key) != mine:
        _ask_plainly(store, key)
        _refuse(where, "to create a key", said)
    said = _try_to_create(store, key, other)
    if said == "success":
        _refuse(where, "to create a key that exists", "success")
    if _read(store, key) != mine:
        _refuse(where, "to create a key that exists", f"{said}, but other bytes were there then")


def _race(store: ObjectStore, where: str, key: str) -> None:
    bodies = [_body() for _ in range(RACERS)]
    said = [""] * RACERS
    together = threading.Barrier(RACERS)

    def create(number: int) -> None:
        together.wait()
        said[number] = _try_to_create(store, key, bodies[number])

    threads = [threading.Thread(target=create, args=(number,)) for number in range(RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tried = f"to create one key {RACERS} times at once"
    if said.count("success") > 1:
        _refuse(where, tried, f"{said.count('success')} successes")
    stored = _read(store, key)
    if stored not in bodies:
        _refuse(where, tried, f"bytes of none of them, and these answers: {'; '.join(said)}")
    if "success" in said and stored != bodies[said.index("success")]:
        _refuse(where, tried, "the bytes of one that was told it had not succeeded")


def _try_to_create(store: ObjectStore, key: str, data: bytes) -> str:
    """Return what the store said: "success", "exists", or why it failed.

    Raises:
        StorageError: `GV-531`, nothing may be written through it.
    """
    try:
        return "success" if store.put_if_absent(key, data) else "exists"
    except StorageError as error:
        if error.code == _UNSAFE:
            raise
        return error.message


def _read(store: ObjectStore, key: str) -> bytes | None:
    for left in reversed(range(_TRIES)):
        try:
            return store.get(key)
        except CorruptError as error:
            if error.details.get("missing"):
                return None
            raise
        except StorageError:
            if not left:
                raise
    return None


def _ask_plainly(store: ObjectStore, key: str) -> None:
    """Raise what keeps the store from taking anything, so that it is not blamed on conditions."""
    store.put(key, [b"written without a condition\n"])


def _left_behind(store: ObjectStore) -> list[str]:
    """Return the keys of probes that died long ago."""
    limit = time.time_ns() // 1_000_000 - _LEFT_BEHIND_MS
    found = store.list(f"{keys.PROBES}/")
    return [key for key in found if keys.ulid_time_ms(key.split("/")[1]) < limit]


def _body() -> bytes:
    return f"gpuvec tries whether this store creates keys once: {secrets.token_hex(16)}\n".encode()


def _refuse(where: str, tried: str, came: str) -> NoReturn:
    raise errors.store_unsafe(where, tried, came)
