"""Arrays of the emulated device are shared with no other library, and say so."""

import numpy as np
import pytest
from helpers.backends import skip_unavailable

import gpunet as gp


@pytest.fixture
def t():
    return gp.tensor([1.0, 2.0], backend=skip_unavailable("emulated"))


def test_dlpack_is_refused_with_what_to_do_instead(t):
    for array in (t, t.data):
        with pytest.raises(
            BufferError, match=r"lives on the emulated device, whose memory is not shared: export a copy"
        ):
            array.__dlpack__()
        with pytest.raises(BufferError, match="emulated device"):
            np.from_dlpack(array)
        assert array.__dlpack_device__() == (12, 0)  # no one takes it for a CUDA device
    assert np.from_dlpack(gp.tensor(t.numpy())).tolist() == [1, 2]


def test_numpy_takes_no_copy_that_was_not_asked_for(t):
    with pytest.raises(TypeError, match="a tensor on a device is not converted to a NumPy array implicitly"):
        np.asarray(t)
    assert not hasattr(t, "__array_interface__")
    assert not hasattr(t, "__cuda_array_interface__")


def test_pytorch_gets_the_same_error(t):
    torch = pytest.importorskip("torch")
    with pytest.raises(BufferError, match="lives on the emulated device, whose memory is not shared"):
        torch.from_dlpack(t)


def test_plain_functions_do_not_take_them(t):
    with pytest.raises(TypeError, match="matmul: a takes numpy.ndarray or cupy.ndarray, got gpunet.*DeviceArray"):
        gp.arrays.matmul(t.data, t.data)
