import ml_dtypes
import numpy as np

from gpuvec.storage.checksum import crc32c


def test_the_checksum_is_the_standard_one():
    assert crc32c([b"123456789"]) == 0xE3069283
    assert crc32c([]) == crc32c([b""]) == 0


def test_parts_make_no_difference():
    data = np.random.default_rng(0).integers(0, 256, 9 << 20, dtype=np.uint8)
    whole = crc32c([data])
    assert crc32c([data[:7].tobytes(), memoryview(data[7:5000]), data[5000:]]) == whole
    assert crc32c([bytearray(data)]) == whole


def test_arrays_of_any_type_are_taken_as_their_bytes():
    for dtype in (np.float16, ml_dtypes.bfloat16, np.int8, np.float32):
        array = np.arange(12).astype(dtype).reshape(3, 4)
        assert crc32c([array]) == crc32c([array.tobytes()])
    assert crc32c([np.zeros((0, 4), np.float32)]) == 0
