import pytest

from gpuvec.errors import CorruptError, UnsupportedError
from gpuvec.wal import frame
from gpuvec.wal.frame import FrameKind, decode_frame, encode_frame, scan_frames

NONCE = "0123456789abcdef" * 2


def log_of(*bodies: bytes, first_lsn: int = 5, epoch: int = 3) -> bytes:
    return b"".join(
        encode_frame(FrameKind.GROUP, [body], epoch=epoch, lsn=lsn, nonce=NONCE, last_ts=lsn)
        for lsn, body in enumerate(bodies, first_lsn)
    )


def bodies_of(data: bytes) -> list[bytes]:
    return [bytes(found.body) for found in scan_frames("wal", data, 5, 3)]


def test_a_frame_comes_back_as_it_was():
    data = encode_frame(
        FrameKind.GROUP, [b"ab", b"", b"c"], epoch=3, lsn=5, nonce=NONCE, first_ts=7, last_ts=9
    )
    found = decode_frame("wal", data)
    assert bytes(found.body) == b"abc"
    assert (found.kind, found.epoch, found.lsn, found.nonce) == (FrameKind.GROUP, 3, 5, NONCE)
    assert (found.first_ts, found.last_ts, found.end) == (7, 9, len(data))


@pytest.mark.parametrize("tail", [b"", bytes(200), b"\xff" * 200, b"gvWL" * 50])
def test_every_cut_leaves_the_frames_before_it(tail):
    bodies = [b"one", b"two" * 20, b"", b"four"]
    data = log_of(*bodies)
    ends = [found.end for found in scan_frames("wal", data, 5, 3)]
    if tail:  # padding may hold anything
        starts = [0, *ends]
        ends = [at + frame.HEADER_BYTES + len(b) for at, b in zip(starts, bodies, strict=False)]
    for cut in range(len(data) + 1):
        whole = [body for body, end in zip(bodies, ends, strict=True) if end <= cut]
        assert bodies_of(data[:cut] + tail) == whole


def test_every_flipped_bit_in_the_last_frame_leaves_the_others():
    data = log_of(b"one", b"two")
    start = len(log_of(b"one"))
    for byte in range(start, start + frame.HEADER_BYTES + 3):  # what follows is padding
        damaged = bytearray(data)
        damaged[byte] ^= 1 << byte % 8
        assert bodies_of(bytes(damaged)) == [b"one"]


def test_a_flipped_bit_before_a_valid_frame_is_never_taken_for_a_torn_tail():
    data = log_of(b"one", b"two", b"three")
    for byte in range(len(log_of(b"one")), len(log_of(b"one")) + frame.HEADER_BYTES + 3):
        damaged = bytearray(data)
        damaged[byte] ^= 1 << byte % 8
        with pytest.raises(CorruptError, match="frame 6 is unreadable and frame 7 follows") as told:
            bodies_of(bytes(damaged))
        assert told.value.code == "GV-526"


def test_a_frame_out_of_order_is_damage():
    with pytest.raises(CorruptError, match="frame 9 of epoch 3 stands where 6 of 3 belongs"):
        bodies_of(log_of(b"one") + log_of(b"late", first_lsn=9))
    with pytest.raises(CorruptError, match="epoch 2"):
        bodies_of(log_of(b"one") + log_of(b"old", first_lsn=6, epoch=2))


def test_an_object_must_be_exactly_one_frame():
    for data in (log_of(b"one")[:-1], log_of(b"one", b"two"), b"", bytes(500)):
        with pytest.raises(CorruptError, match="not one whole frame"):
            decode_frame("slot", data)


def test_a_newer_format_is_told_apart_from_damage(monkeypatch):
    monkeypatch.setattr(frame, "FORMAT", 3)
    data = encode_frame(FrameKind.CLOSE, [b"one"], epoch=1, lsn=5, nonce=NONCE)
    monkeypatch.setattr(frame, "FORMAT", 2)
    with pytest.raises(UnsupportedError, match="written by a newer gpuvec: format 3"):
        bodies_of(data)


def test_frames_that_stand_alone_keep_the_format_that_older_readers_know(monkeypatch):
    data = log_of(b"one")
    monkeypatch.setattr(frame, "FORMAT", 1)
    assert bodies_of(data) == [b"one"]
