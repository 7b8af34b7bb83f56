"""What both media promise, and then what each has of its own."""

import pyarrow as pa
import pytest

from gpuvec.clock import ManualClock
from gpuvec.errors import CorruptError, StorageError, UnavailableError
from gpuvec.rows import Rows
from gpuvec.storage import keys
from gpuvec.storage.memory import MemoryStore
from gpuvec.storage.object_store import Append, Get, List, Put, PutIfAbsent, perform, run
from gpuvec.wal.channel import Channel as Where
from gpuvec.wal.files import Hint
from gpuvec.wal.log import ChannelPosition, claim, read_tail
from gpuvec.wal.record import WriteRecord

PREFIX, CHANNEL = keys.collection("c-1"), "s000"
FOLDER = keys.wal_folder(PREFIX, CHANNEL)
WHERE = Where(prefix=PREFIX, name=CHANNEL)


FAILURE = StorageError("GV-599", "simulated")


def write(ts: int) -> WriteRecord:
    rows = Rows(pa.table({"id": [ts]}))
    return WriteRecord(ts=ts, request_id=f"r{ts}", operation="insert", rows=rows)


def stamps(groups) -> list[int]:
    return [record.ts for group in groups for record in group.records]


class Channel:
    """A channel whose manifest is two numbers; `fail` makes operations fail."""

    def __init__(self, store):
        self.store, self.clock = store, ManualClock()
        self.epoch = self.flushed = 0
        self.fences = ()
        self.fail = lambda operation: None  # or "before", "after"

    def do(self, procedure):
        """Run a procedure; operations fail as `fail` says."""
        try:
            operation = next(procedure)
            while True:
                try:
                    result = self._perform(operation)
                except StorageError as error:
                    operation = procedure.throw(error)
                else:
                    operation = procedure.send(result)
        except StopIteration as done:
            return done.value

    def _perform(self, operation):
        how = self.fail(operation)
        if how == "before":
            raise FAILURE
        result = perform(operation, self.store, self.clock)
        if how == "after":
            raise FAILURE
        return result

    def position(self):
        return ChannelPosition(epoch=self.epoch, flushed_lsn=self.flushed)
        yield

    def claim(self):
        self.epoch += 1
        return self.do(self.claiming(self.epoch))

    def claiming(self, epoch):
        return claim(PREFIX, CHANNEL, epoch, self.position, appendable=self.store.appendable)

    def tail(self, cursor=None):
        return self.do(
            read_tail(
                PREFIX, CHANNEL, self.position, appendable=self.store.appendable, cursor=cursor
            )
        )

    def append(self, log, *ts):
        return self.do(log.append([write(t) for t in ts]))

    def flush(self, log, lsn):
        self.flushed = lsn
        self.fences += log.fences(lsn)
        self.do(log.truncate(lsn, self.fences))

    def files(self):
        return [key.rpartition("/")[2] for key in self.store.list(f"{FOLDER}/")]


def failing(kind, how, *, times=1, skip=0):
    """Let the operations of a kind fail, `times` of them after the first `skip`."""
    count = iter(range(skip + times))

    def fail(operation):
        if isinstance(operation, kind):
            number = next(count, None)
            return how if number is not None and number >= skip else None
        return None

    return fail


@pytest.fixture(params=[True, False], ids=["files", "slots"])
def channel(request):
    return Channel(MemoryStore(appendable=request.param))


@pytest.fixture
def files():
    return Channel(MemoryStore())


@pytest.fixture
def slots():
    return Channel(MemoryStore(appendable=False))


def test_a_new_channel_is_empty(channel):
    recovery = channel.claim()
    assert recovery.groups == ()
    assert recovery.log.last_ts == 0
    assert channel.tail().groups == ()


def test_a_channel_that_nobody_claimed_reads_as_empty(channel):
    assert channel.tail().groups == ()


def test_what_was_appended_is_recovered_in_order(channel):
    log = channel.claim().log
    positions = [channel.append(log, 1, 2), channel.append(log, 3), channel.append(log, 4, 5)]
    recovery = channel.claim()
    assert stamps(recovery.groups) == [1, 2, 3, 4, 5]
    assert [group.lsn for group in recovery.groups] == positions
    assert recovery.log.last_ts == 5
    assert recovery.log.lsn > positions[-1]


def test_a_reader_sees_each_group_once(channel):
    log = channel.claim().log
    seen, cursor = [], None
    for ts in range(1, 5):
        channel.append(log, ts)
        for _ in range(2):
            tail = channel.tail(cursor)
            cursor = tail.cursor
            seen += stamps(tail.groups)
        if ts == 2:
            log = channel.claim().log
    assert seen == [1, 2, 3, 4]


def test_an_old_owner_cannot_write(channel):
    old = channel.claim().log
    channel.append(old, 1)
    new = channel.claim().log
    with pytest.raises(UnavailableError, match="taken by another writer") as told:
        channel.append(old, 2)
    assert told.value.code == "GV-527"
    assert old.closed
    with pytest.raises(UnavailableError, match="earlier write failed"):
        channel.append(old, 3)
    channel.append(new, 10)
    assert stamps(channel.claim().groups) == [1, 10]


def test_flushed_groups_are_deleted_and_others_stay(channel):
    log = channel.claim().log
    first = channel.append(log, 1)
    channel.append(log, 2)
    channel.flush(log, first)
    assert stamps(channel.tail().groups) == [2]
    channel.append(log, 3)
    recovery = channel.claim()
    assert stamps(recovery.groups) == [2, 3]
    channel.flush(recovery.log, recovery.groups[-1].lsn)
    assert len(channel.files()) <= 3  # the newest file and a hint, or fences
    assert channel.claim().groups == ()
    assert stamps(channel.tail().groups) == []


def test_positions_go_on_after_everything_was_flushed(channel):
    for round_ in range(1, 6):
        log = channel.claim().log
        lsn = channel.append(log, round_)
        assert lsn > channel.flushed
        channel.flush(log, lsn)


def test_timestamps_must_rise(channel):
    log = channel.claim().log
    channel.append(log, 5)
    for stale in ([5], [6, 6], [4]):
        with pytest.raises(AssertionError, match="timestamps must rise"):
            channel.append(log, *stale)
    channel.append(log, 6)


def test_an_overtaken_claim_stops(channel):
    channel.claim()
    slow = channel.claiming(2)
    channel.epoch = 2
    channel.claim()  # of epoch 3
    with pytest.raises(UnavailableError, match="claimed with epoch 3") as told:
        channel.do(slow)
    assert told.value.code == "GV-529"


@pytest.mark.parametrize("how", ["before", "after"])
def test_one_failure_of_the_store_does_not_fail_a_write(channel, how):
    log = channel.claim().log
    channel.append(log, 1)
    channel.fail = failing(Append | PutIfAbsent, how)
    channel.append(log, 2)
    channel.append(log, 3)
    assert stamps(channel.tail().groups) == [1, 2, 3]
    assert stamps(channel.claim().groups) == [1, 2, 3]


@pytest.mark.parametrize("how", ["before", "after"])
def test_a_store_that_keeps_failing_leaves_the_outcome_open(channel, how):
    log = channel.claim().log
    channel.append(log, 1)
    channel.fail = lambda op: how if isinstance(op, Append | PutIfAbsent | Get) else None
    with pytest.raises(UnavailableError) as told:
        channel.append(log, 2)
    assert told.value.code == "GV-528"
    assert told.value.details["outcome"] == "unknown"
    assert log.closed
    channel.fail = lambda operation: None
    recovery = channel.claim()
    assert stamps(recovery.groups) == ([1, 2] if how == "after" else [1])
    channel.append(recovery.log, 9)


def test_damage_of_an_older_group_is_told(channel):
    log = channel.claim().log
    for ts in (1, 2, 3):
        channel.append(log, ts)
    key = f"{FOLDER}/{channel.files()[-2]}"
    data = bytearray(channel.store.get(key))
    data[len(data) // 2] ^= 1
    channel.store.put(key, [bytes(data)])
    with pytest.raises(CorruptError, match="is damaged") as told:
        channel.tail()
    assert told.value.code == "GV-526"
    assert key in str(told.value)
    with pytest.raises(CorruptError):
        channel.claim()


def test_a_log_that_is_gone_is_told_once_something_was_flushed(files):
    log = files.claim().log
    files.flush(log, files.append(log, 1))
    for _ in range(2):  # first the files, then the hint too
        files.store.delete([f"{FOLDER}/{name}" for name in files.files() if name != "hint"])
        with pytest.raises(CorruptError, match="missing"):
            files.tail()
        with pytest.raises(CorruptError, match="missing"):
            files.claim()
        files.store.delete([f"{FOLDER}/hint"])


def test_a_missing_newest_file_is_told_from_a_shorter_log(files):
    files.append(files.claim().log, 1)
    files.append(files.claim().log, 2)
    newest = f"{FOLDER}/{files.files()[-2]}"
    files.store.delete([newest])
    with pytest.raises(CorruptError, match=newest):
        files.tail()
    with pytest.raises(CorruptError, match=newest):
        files.claim()


def flip_last(data: bytes) -> bytes:
    return data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]


def flipped(hint: bytes) -> bytes:
    return hint.replace(b"e000002", b"e000003")


def old(_: bytes) -> bytes:
    return Hint((1, 1), 10).encode(WHERE)


def old_and_longer(_: bytes) -> bytes:
    return Hint((1, 1), 1 << 20).encode(WHERE)  # what an owner wrote there that lost its channel


@pytest.mark.parametrize(
    "hint",
    [None, b"rubbish \xff", b"", b"e000009-00000000000000000001.log", flipped, old, old_and_longer],
)
def test_a_lost_or_old_hint_changes_nothing(files, hint):
    files.append(files.claim().log, 1)
    files.append(files.claim().log, 2)
    if callable(hint):
        hint = hint(files.store.get(f"{FOLDER}/hint"))
        assert b"e000002" not in hint
    files.store.delete([f"{FOLDER}/hint"])
    if hint is not None:
        files.store.put(f"{FOLDER}/hint", [hint])
    assert stamps(files.tail().groups) == stamps(files.claim().groups) == [1, 2]


# Append files


@pytest.mark.parametrize("damage", [lambda x: x[: len(x) // 2], lambda x: x[:-20], flip_last])
def test_what_is_cut_from_a_closed_log_is_missed(files, damage):
    log = files.claim().log
    for ts in range(1, 6):
        files.append(log, ts)
    files.do(log.close())
    assert stamps(files.tail().groups) == [1, 2, 3, 4, 5]
    key = f"{FOLDER}/{files.files()[-2]}"
    whole = files.store.get(key)
    files.store.put(key, [damage(whole)])
    for look in (files.tail, files.claim):
        with pytest.raises(CorruptError, match="unreadable from byte") as told:
            look()
        assert key in str(told.value)
    files.store.put(key, [whole])
    assert stamps(files.claim().groups) == [1, 2, 3, 4, 5]


def test_a_closed_log_takes_no_more(channel):
    log = channel.claim().log
    channel.append(log, 1)
    channel.do(log.close())
    channel.do(log.close())
    with pytest.raises(UnavailableError):
        channel.append(log, 2)
    assert stamps(channel.claim().groups) == [1]


def test_a_log_is_closed_though_its_end_cannot_be_noted(files):
    log = files.claim().log
    files.append(log, 1)
    files.fail = failing(Put, "before")
    files.do(log.close())
    assert stamps(files.claim().groups) == [1]


def test_a_torn_tail_is_cut(files):
    log = files.claim().log
    files.append(log, 1)
    key = f"{FOLDER}/{files.files()[-2]}"
    whole = files.store.get(key)
    files.append(log, 2)
    torn = files.store.get(key)[:-20]
    files.store.put(key, [torn])
    assert stamps(files.tail().groups) == [1]
    recovery = files.claim()
    assert stamps(recovery.groups) == [1]
    assert files.store.get(key) == torn  # nothing is cut before it is read by anyone else
    files.append(recovery.log, 3)
    assert stamps(files.tail().groups) == [1, 3]
    assert len(whole) < len(torn)


def test_a_failed_append_goes_into_a_new_file_and_counts_once(files):
    log = files.claim().log
    files.append(log, 1)
    files.fail = failing(Append, "after")
    before = files.files()
    files.append(log, 2)
    assert len(files.files()) == len(before) + 1
    files.append(log, 3)
    assert stamps(files.claim().groups) == [1, 2, 3]


def test_a_reader_that_saw_a_group_before_it_was_written_again_counts_it_once(files):
    log = files.claim().log
    procedure = log.append([write(1)])
    operation = next(procedure)
    while not isinstance(operation, Append):
        operation = procedure.send(perform(operation, files.store, files.clock))
    perform(operation, files.store, files.clock)
    tail = files.tail()
    assert stamps(tail.groups) == [1]
    finish(files, procedure, procedure.throw(FAILURE))
    files.append(log, 2)
    assert stamps(files.tail(tail.cursor).groups) == [2]


def test_a_reader_waits_while_a_claim_leaves_the_last_group_undecided(files):
    log = files.claim().log
    files.append(log, 1)
    claiming = files.claiming(2)
    files.epoch = 2
    fence = next(claiming)
    while not isinstance(fence, PutIfAbsent):
        fence = claiming.send(perform(fence, files.store, files.clock))
    appending = log.append([write(2)])
    check = next(appending)
    while not isinstance(check, List):
        check = appending.send(perform(check, files.store, files.clock))
    assert perform(fence, files.store, files.clock)
    with pytest.raises(UnavailableError, match="taken by another writer"):
        finish(files, appending, check)
    with pytest.raises(UnavailableError, match="taking over") as told:
        files.tail()
    assert told.value.code == "GV-530"
    recovery = finish(files, claiming, claiming.send(True))
    assert stamps(recovery.groups) == stamps(files.tail().groups) == [1, 2]


def finish(channel, procedure, operation):
    """Run a procedure that has begun, and return its value."""
    try:
        while True:
            operation = procedure.send(perform(operation, channel.store, channel.clock))
    except StopIteration as done:
        return done.value


def test_a_reader_does_not_wait_for_a_claimer_that_died(files):
    log = files.claim().log
    files.append(log, 1)
    files.epoch = 2
    files.fail = failing(PutIfAbsent, "before", times=99, skip=1)
    with pytest.raises(StorageError):
        files.do(files.claiming(2))
    files.fail = lambda operation: None
    assert stamps(files.tail().groups) == [1]


def test_rubbish_of_an_old_owner_is_passed_over(files):
    old = files.claim().log
    files.append(old, 1)
    new = files.claim().log
    files.append(new, 2)
    files.flush(new, new.lsn)
    with pytest.raises(UnavailableError):
        files.append(old, 7)  # begins its file anew, as an append file without a beginning
    assert files.tail().groups == ()
    files.append(new, 8)
    assert stamps(files.claim().groups) == [8]


def test_a_missing_older_file_is_told(files):
    files.append(files.claim().log, 1)
    files.append(files.claim().log, 2)
    first = next(name for name in files.files() if name.endswith("1.log"))
    files.store.delete([f"{FOLDER}/{first}"])
    with pytest.raises(CorruptError, match="missing"):
        files.tail()


# Slots


def test_fences_stay_for_ever_and_the_newest_slot_until_there_is_another(slots):
    for ts in (1, 2, 3):
        log = slots.claim().log
        slots.append(log, ts)
        slots.flush(log, log.lsn)
    numbers = [int(name.partition(".")[0]) for name in slots.files()]
    assert numbers == [*slots.fences, log.lsn]
    assert len(slots.fences) == 3


def test_a_reader_does_not_take_a_slot_created_again_for_the_original(slots):
    log = slots.claim().log
    lsn = slots.append(log, 1)
    key = keys.wal_slot(FOLDER, lsn)
    original = slots.store.get(key)
    slots.append(log, 2)
    stale = slots.flushed
    slots.flush(log, lsn + 1)
    slots.store.put(key, [original.replace(b"r1", b"rX")])  # by a claimer that slept
    seen = iter([stale])

    def position():
        flushed = next(seen, slots.flushed)
        return ChannelPosition(epoch=slots.epoch, flushed_lsn=flushed)
        yield

    tail = run(read_tail(PREFIX, CHANNEL, position, appendable=False), slots.store, slots.clock)
    assert tail.groups == ()


def test_a_gap_between_slots_is_told(slots):
    log = slots.claim().log
    lsn = slots.append(log, 1)
    slots.append(log, 2)
    slots.store.delete([keys.wal_slot(FOLDER, lsn)])
    with pytest.raises(CorruptError, match=f"slot {lsn} is missing"):
        slots.tail()
    with pytest.raises(CorruptError, match=f"slot {lsn} is missing"):
        slots.claim()
