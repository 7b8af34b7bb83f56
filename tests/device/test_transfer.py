"""Copies between host and device, on a rehearsed card: what arrives, waits and is counted."""

import ml_dtypes
import numpy as np
import pytest

from gpuvec import telemetry
from gpuvec.device import transfer
from gpuvec.device.arrays import to_device, to_host
from gpuvec.device.library import cupy_module
from gpuvec.device.residency import device_store
from gpuvec.device.rows import ArrayRows, DeviceRows, device_rows
from gpuvec.errors import DeviceMemoryError
from gpuvec.settings import config
from gpuvec.testing.rehearsal import rehearsal, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())
MIB = 1 << 20


@pytest.fixture
def card():
    with rehearsal(card_bytes=64 * MIB) as found:
        yield found


@pytest.fixture
def staged(monkeypatch):
    """Let arrays of some kilobytes take the way of large ones."""
    monkeypatch.setattr(transfer, "_STAGE_BYTES", 4096)


def numbers(shape, dtype=np.float32):
    return np.random.default_rng(0).integers(-100, 100, shape).astype(dtype)


@pytest.mark.parametrize("shape", [(1000, 16), (1000, 3), (5000,), (1, 5000), (0, 16)])
@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.int64])
def test_what_goes_up_comes_back(card, staged, shape, dtype):
    host = numbers(shape, dtype)
    np.testing.assert_array_equal(to_host(to_device(host)), host)


def test_strided_and_read_only_arrays_go_up_too(card, staged):
    host = numbers((2000, 32))[::2, 4:20]
    host.flags.writeable = False
    np.testing.assert_array_equal(to_host(to_device(host)), host)


def test_bfloat16_goes_up_as_its_bits(card, staged):
    host = numbers((1000, 16)).astype(ml_dtypes.bfloat16)
    moved = to_device(host)
    assert moved.dtype == np.uint16
    np.testing.assert_array_equal(to_host(moved), host.view(np.uint16))


def test_the_host_array_may_change_once_the_copy_has_returned(card, staged):
    host = numbers((3000, 16))
    before = host.copy()
    moved = to_device(host)
    host[:] = 0
    np.testing.assert_array_equal(to_host(moved), before)


def test_on_a_stream_of_its_own_a_copy_leaves_its_buffer_before_that_is_filled_again(card, staged):
    host = numbers((3000, 16))
    with cupy_module().cuda.Stream(non_blocking=True):  # where copies happen as late as they may
        moved = to_device(host)
        before, host[:] = host.copy(), 0
        np.testing.assert_array_equal(to_host(moved), before)


def test_copies_are_counted_by_direction_and_purpose_and_are_those_that_were_made(card, staged):
    before = transfer.copied()
    host = numbers((3000, 16))
    card.copies.clear()
    to_host(to_device(host, "vectors"), "results")
    to_device(numbers(10), "bits")
    after = transfer.copied()
    grown = {key: size - before.get(key, 0) for key, size in after.items()}
    assert grown[transfer.UP, "vectors"] == host.nbytes
    assert grown[transfer.DOWN, "results"] == host.nbytes
    assert grown[transfer.UP, "bits"] == 40
    assert sum(card.copies.to_device) == host.nbytes + 40
    assert sum(card.copies.to_host) == host.nbytes


@pytest.mark.parametrize("rows", [1, 7, 100, 5000])
def test_streamed_tiles_are_all_rows_once_and_in_order(card, rows):
    host = numbers((700, 5))
    found = [
        (tile.start, tile.stop, to_host(tile.values.copy()))
        for tile in transfer.stream_rows(host, rows, "vectors")
    ]
    assert [start for start, _, _ in found] == [0, *(stop for _, stop, _ in found[:-1])]
    np.testing.assert_array_equal(np.concatenate([part for _, _, part in found]), host)


def test_two_tiles_lie_on_the_card_at_a_time(card):
    host = numbers((64 * 1024, 16))
    for tile in transfer.stream_rows(host, 1024, "vectors"):
        assert len(tile.values) == 1024
    assert card.most_used <= 2 * 1024 * 16 * 4 + 4096


def test_leaving_a_stream_early_leaves_nothing_behind(card):
    stream = transfer.stream_rows(numbers((1000, 16)), 10, "vectors")
    next(stream)
    stream.close()
    del stream
    assert card.used == 0


def test_cut_rows_are_counted_as_splits(card):
    before = telemetry.TILE_SPLITS.value("rows")
    assert len(list(transfer.stream_rows(numbers((100, 2)), 30, "vectors"))) == 4
    assert telemetry.TILE_SPLITS.value("rows") == before + 3


class TestRows:
    """Rows that lie on the card or are streamed."""

    @pytest.fixture
    def make(self, card):
        """Make rows of a segment, within a budget."""
        with config.set():
            store = device_store()

            def build(host, limit, name="a"):
                config.set(device__memory_limit=limit)
                return DeviceRows(host.shape, host.dtype, lambda: host, store, (name, 0, "v"))

            yield build

    @pytest.mark.parametrize("limit", [MIB, 80_000, 20_000, 1000])
    def test_tiles_and_places_are_the_rows_whether_they_fit_or_not(self, make, limit):
        host = numbers((1000, 16))
        with make(host, limit).held() as held:
            assert (held.array is not None) == (limit >= 80_000 * 4 // 3 or limit == MIB)
            assert held.row_scratch == (0 if held.array is not None else 128)
            parts = [to_host(tile.values.copy()) for tile in held.tiles(33)]
            places = np.array([5, 999, 0, 5])
            taken = to_host(held.take(to_device(places)))
        np.testing.assert_array_equal(np.concatenate(parts), host)
        np.testing.assert_array_equal(taken, host[places])

    def test_rows_come_once_and_stay_until_others_need_the_room(self, make, card):
        first, second = make(numbers((1000, 16)), 100_000), make(numbers((1000, 8)), 100_000, "b")
        for _ in range(3):
            with first.held() as held:
                assert held.array is not None
        assert sum(card.copies.to_device) == first.nbytes
        assert first.is_resident
        with second.held():
            assert not first.is_resident

    def test_rows_in_use_by_others_leave_no_room_and_are_streamed(self, make):
        first, second = make(numbers((1000, 16)), 100_000), make(numbers((1000, 8)), 100_000, "b")
        with first.held(), second.held() as held:
            assert held.array is None

    def test_what_is_derived_goes_with_the_room(self, make):
        rows = make(numbers((1000, 16)), MIB)
        made = []
        for _ in range(2):
            with rows.derived("codes", 1000, lambda: made.append(1) or 7) as found:
                assert found == 7
        assert made == [1]
        assert rows.has_derived("codes")
        with rows.derived("huge", 2 * MIB, object) as found:
            assert found is None

    def test_arrays_of_the_caller_stay_and_are_not_booked(self, make):
        rows = device_rows(to_device(numbers((100, 4))))
        assert isinstance(rows, ArrayRows)
        assert device_rows(rows) is rows
        with rows.held() as held:
            assert held.array is not None
        with rows.scratch(10, 20, what="x") as size:
            assert size <= 20
        assert rows.like.shape == (0, 4)

    def test_a_budget_too_small_for_a_tile_is_refused(self, make):
        rows = make(numbers((1000, 16)), 500)
        with (
            pytest.raises(DeviceMemoryError, match="a tile"),
            rows.scratch(512, 512, what="a tile"),
        ):
            pass
