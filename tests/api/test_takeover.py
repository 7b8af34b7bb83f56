"""Writers that take a bucket from one another all the time: no acknowledged row is lost."""

import random
import threading
from contextlib import nullcontext, suppress

import numpy as np
import pytest

import gpuvec as gv
from gpuvec import errors
from gpuvec.api.collection import Collection
from gpuvec.api.engine import Engine
from gpuvec.api.source import CollectionSource
from gpuvec.fields import Int64, Vector
from gpuvec.query.session import new_session
from gpuvec.schema import Schema
from gpuvec.storage.memory import MemoryStore
from gpuvec.testing.faults import Fault, FaultStore

SCHEMA = Schema({"id": Int64(), "v": Vector(4)}, "id")
ROWS = 5


class Bucket(MemoryStore):
    """Like a bucket: no logs to append to, and no lock."""

    def __init__(self):
        super().__init__(appendable=False)

    def lock(self, key):
        return nullcontext()


class BusyBucket(Bucket):
    """Lets something happen just before an entry of a collection's log is created."""

    meanwhile, said = None, b""

    def put_if_absent(self, key, data):
        is_entry = key.startswith("collections/") and "/manifest/" in key
        if self.meanwhile is not None and is_entry and self.said in data:
            happen, self.meanwhile = self.meanwhile, None
            happen()
        return super().put_if_absent(key, data)


class FaultyBucket(FaultStore):
    """The same, failing now and then."""

    def __init__(self, inner, plan):
        super().__init__(inner, plan)
        self.lock, self.close = inner.lock, inner.close
        self.peek, self.folders, self.identity = inner.peek, inner.folders, inner.identity


def open_engine(store):
    return Engine(store, "bucket", durability="fsync", flush_bytes=1 << 20, age_s=600.0)


def collection(engine):
    _, collection_id = engine.root().resolve("items")
    return Collection(CollectionSource(engine, collection_id), new_session(1 << 30, device="cpu"))


def rows(batch):
    ids = np.arange(batch * ROWS, (batch + 1) * ROWS)
    return {"id": ids, "v": np.ones((ROWS, 4), np.float32)}


def ids_of(engine):
    found = collection(engine).select("id").to_arrow()["id"].to_pylist()
    assert len(set(found)) == len(found), "a row is there twice"
    return set(found)


class Writers:
    """Threads that each open the database, write until they are replaced, and open it again."""

    def __init__(self, seed, count, *, faults=0.0):
        self.bucket = Bucket()
        self.random = random.Random(seed)
        self.faults = faults
        self.acknowledged: dict[int, bool] = {}
        self.attempted: set[int] = set()
        self.takeovers = 0
        self.failures: list[BaseException] = []
        engine = open_engine(self.bucket)
        engine.collections.create("items", SCHEMA)
        engine.close()
        self.threads = [
            threading.Thread(target=self._guarded, args=(n, random.Random(f"{seed}-{n}")))
            for n in range(count)
        ]

    def run(self):
        for thread in self.threads:
            thread.start()
        for thread in self.threads:
            thread.join()
        if self.failures:
            raise self.failures[0]
        engine = open_engine(self.bucket)
        found = ids_of(engine)
        gone = {i for i, deleted in self.acknowledged.items() if deleted}
        there = set(self.acknowledged) - gone
        assert there <= found <= self.attempted
        assert not gone & found
        engine.close()

    def _store(self, chance):
        if not self.faults:
            return self.bucket
        kinds = [Fault.BEFORE, Fault.AFTER, Fault.REPEATED, Fault.CONFLICT, Fault.MISSING]
        plan = {n: chance.choice(kinds) for n in range(2000) if chance.random() < self.faults}
        return FaultyBucket(self.bucket, plan)

    def _guarded(self, number, chance):
        try:
            self._write(number, chance)
        except BaseException as error:
            self.failures.append(error)

    def _write(self, number, chance):
        batch = number * 10**6
        for _ in range(8):
            try:
                engine = open_engine(self._store(chance))
            except (errors.StorageError, errors.UnavailableError):
                continue
            try:
                for _ in range(6):
                    batch += ROWS
                    self._step(engine, batch, chance)
            except errors.ConflictError:
                self.takeovers += 1
            except (errors.StorageError, errors.UnavailableError):
                pass
            finally:
                with suppress(errors.StorageError, errors.UnavailableError, errors.ConflictError):
                    engine.close()

    def _step(self, engine, batch, chance):
        items = collection(engine)
        ids = list(range(batch, batch + ROWS))
        self.attempted.update(ids)
        items.insert({"id": ids, "v": np.ones((ROWS, 4), np.float32)})
        self.acknowledged |= dict.fromkeys(ids, False)
        if chance.random() < 0.4:
            items.flush()
        if chance.random() < 0.3:
            del self.acknowledged[ids[0]]
            items.delete(ids=ids[:1])
            self.acknowledged[ids[0]] = True


@pytest.mark.parametrize("seed", range(4))
def test_writers_that_replace_one_another_lose_nothing(seed):
    writers = Writers(seed, 3)
    writers.run()
    assert writers.takeovers > 0
    assert len(writers.acknowledged) > 0


@pytest.mark.parametrize("seed", range(4))
def test_nor_do_they_on_a_store_that_fails_now_and_then(seed):
    Writers(seed, 3, faults=0.02).run()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 200))
def test_nor_do_they_for_long(seed):
    Writers(seed, 4, faults=0.02 * (seed % 2)).run()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_writer_takes_a_channel_though_the_one_before_takes_it_at_the_same_time(channels):
    bucket = BusyBucket()
    old, new = open_engine(bucket), open_engine(bucket)
    old.collections.create("items", SCHEMA, channels=channels)
    bucket.meanwhile = lambda: collection(old).insert(rows(0))
    collection(new).insert(rows(1))
    assert bucket.meanwhile is None
    assert ids_of(new) == {*range(2 * ROWS)}
    with pytest.raises(errors.ConflictError, match="GV-538"):
        collection(old).insert(rows(2))
    old.close()
    new.close()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("said", "upkeep"),
    [(b'"Forget"', lambda items: items.vacuum("0s")), (b'"ReplaceSegments"', Collection.compact)],
    ids=["vacuum", "compact"],
)
def test_a_version_that_a_reader_pins_at_that_moment_is_kept(channels, said, upkeep):
    bucket = BusyBucket()
    writer, reader = open_engine(bucket), open_engine(bucket)
    writer.collections.create("items", SCHEMA, channels=channels)
    items = collection(writer)
    items.insert(rows(0))
    items.flush()
    old = collection(reader).at(version=items.version)
    items.delete(ids=[0, 1, 2])
    collection(reader).count()
    bucket.said, bucket.meanwhile = said, lambda: reader.leases.tend(at_once=True)
    with gv.config.set(store__retention_s=0):
        upkeep(items)
    assert bucket.meanwhile is None
    assert set(old.to_arrow()["id"].to_pylist()) == {*range(ROWS)}
    assert ids_of(writer) == {3, 4}
    reader.close()
    writer.close()
