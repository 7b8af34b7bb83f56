from importlib.util import find_spec

import ml_dtypes
import numpy as np
import pytest

from gpuvec.device.arrays import array_namespace, as_float32, from_dlpack, is_device_array, to_host
from gpuvec.errors import UnsupportedError


def test_numpy_arrays_and_none_are_on_the_host():
    assert array_namespace(np.zeros(3), None) is np
    assert array_namespace(None) is np
    assert not is_device_array(np.zeros(3))


def test_to_host_does_not_copy_what_is_there():
    x = np.zeros(3)
    assert to_host(x) is x


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int8, np.uint8, np.float32])
def test_every_stored_value_becomes_float32_without_loss(dtype):
    x = np.arange(0, 100).astype(dtype).reshape(10, 10)
    assert as_float32(x).dtype == np.float32
    np.testing.assert_array_equal(as_float32(x).astype(dtype), x)


def test_arrays_of_other_libraries_come_without_a_copy():
    class Foreign:
        def __init__(self, x):
            self.x = x

        def __dlpack__(self, **options):
            return self.x.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.x.__dlpack_device__()

    x = np.arange(6, dtype=np.float32)
    assert np.shares_memory(from_dlpack(Foreign(x)), x)


def test_a_device_array_without_cupy_is_a_plain_error():
    class OnGpu:
        def __dlpack_device__(self):
            return (2, 0)

    if find_spec("cupy") is not None:
        pytest.skip("CuPy is installed")
    with pytest.raises(UnsupportedError, match="cupy"):
        from_dlpack(OnGpu())


@pytest.mark.gpu
def test_arrays_travel_to_the_device_and_back():
    from gpuvec.device.arrays import to_device

    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    moved = to_device(x)
    assert is_device_array(moved)
    np.testing.assert_array_equal(to_host(moved), x)


@pytest.mark.gpu
def test_bfloat16_travels_as_its_bits_and_widens_there():
    from gpuvec.device.arrays import to_device

    x = np.linspace(-3, 3, 20).astype(ml_dtypes.bfloat16).reshape(4, 5)
    moved = to_device(x)
    assert moved.dtype == np.uint16
    np.testing.assert_array_equal(to_host(as_float32(moved)), x.astype(np.float32))
