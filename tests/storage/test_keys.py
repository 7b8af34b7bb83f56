import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuvec.storage import keys
from gpuvec.types import ChannelName, SegmentId

PREFIX = keys.collection("c-01hf7yat00")
CHANNEL = ChannelName("s000")
SEGMENT = SegmentId("01hf7yat00nentqaxbnentqaxb")


def test_every_function_makes_a_key():
    folder = keys.wal_folder(PREFIX, CHANNEL)
    made = [
        keys.FORMAT, keys.LOCK, keys.manifest_entry(keys.CATALOG, 7), keys.manifest_hint(PREFIX),
        keys.checkpoint(PREFIX, 400), keys.manifest_mark(PREFIX, 380), keys.wal_slot(folder, 9120),
        keys.wal_file(folder, 17, 9001), keys.wal_mark(folder, 8950),
        keys.scalar_file(PREFIX, SEGMENT), keys.vector_file(PREFIX, SEGMENT, "Größe"),
        keys.delete_file(PREFIX, SEGMENT, "01hf7yat00"),
    ]  # fmt: skip
    assert all(keys.is_key(key) for key in made)
    assert len(set(made)) == len(made)


def test_the_layout_is_the_documented_one():
    folder = keys.wal_folder(PREFIX, CHANNEL)
    assert keys.manifest_entry("catalog", 7) == "catalog/manifest/00000000000000000007.json"
    assert keys.wal_file(folder, 17, 9001) == f"{folder}/e000017-00000000000000009001.log"
    assert keys.wal_mark(folder, 8950) == f"{PREFIX}/gc/wal-s000/00000000000000008950"
    assert keys.vector_file(PREFIX, SEGMENT, "e") == f"{PREFIX}/seg/{SEGMENT}/vec-e.arrow"


def test_numbers_come_back_from_names():
    folder = keys.wal_folder(PREFIX, CHANNEL)
    assert keys.parse_number(keys.manifest_entry(PREFIX, 12)) == 12
    assert keys.parse_number(keys.wal_slot(folder, 13)) == 13
    assert keys.parse_number(keys.manifest_mark(PREFIX, 14)) == 14
    assert keys.parse_number(keys.manifest_hint(PREFIX)) is None
    assert keys.parse_wal_file(keys.wal_file(folder, 1_000_000, 3)) == (1_000_000, 3)
    assert keys.parse_wal_file(keys.wal_slot(folder, 3)) is None


def test_segments_come_back_from_the_names_of_their_files():
    for key in (
        keys.scalar_file(PREFIX, SEGMENT),
        keys.vector_file(PREFIX, SEGMENT, "seg"),
        keys.delete_file(PREFIX, SEGMENT, "01a"),
    ):
        assert keys.parse_segment(key) == SEGMENT
    assert keys.parse_segment(keys.manifest_entry(PREFIX, 1)) is None
    assert keys.parse_segment(keys.FORMAT) is None


def test_log_files_sort_by_epoch_and_then_by_lsn():
    folder = keys.wal_folder(PREFIX, CHANNEL)
    pairs = [(1, 5), (1, 40), (2, 6), (10, 1), (10, 10**12)]
    assert sorted(keys.wal_file(folder, *pair) for pair in reversed(pairs)) == [
        keys.wal_file(folder, *pair) for pair in pairs
    ]


@given(st.lists(st.text(min_size=1, max_size=60), min_size=2, max_size=2, unique=True))
def test_different_fields_have_different_files_even_where_case_is_ignored(names):
    made = [keys.vector_file(PREFIX, SEGMENT, name) for name in names]
    assert made[0].lower() != made[1].lower()
    for key in made:
        assert keys.is_key(key)
        assert len(key.rpartition("/")[2]) < 255


def test_the_longest_field_names_fit_and_differ():
    made = {keys.escape("長" * n) for n in range(1, 300)}
    assert len(made) == 299
    assert max(map(len, made)) <= 100


def test_ulids_sort_by_time_and_say_when():
    early = keys.ulid(1_700_000_000_000, "f" * 32)
    late = keys.ulid(1_700_000_000_001, "0" * 32)
    assert early < late
    assert len(early) == len(late) == 26
    assert keys.ulid_time_ms(early) == 1_700_000_000_000
    assert keys.is_key(early)
    assert keys.ulid(5, "0" * 20) != keys.ulid(5, "0" * 19 + "1")


@pytest.mark.parametrize("prefix", ["/", "a//", "../", "A", "a/../", ".a"])
def test_what_no_key_begins_with_is_a_bug(prefix):
    with pytest.raises(AssertionError, match="no prefix"):
        keys.check_prefix(prefix)


@pytest.mark.parametrize("prefix", ["", "a", "a/", "a/b.json", "collections/c-1/wal/s000/e"])
def test_what_keys_begin_with_is_a_prefix(prefix):
    assert keys.check_prefix(prefix) == prefix
