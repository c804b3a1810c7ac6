"""Fixtures for files of Keras's form."""

import pytest

from gpunet.interop import hdf5, hdf5_contents


@pytest.fixture
def written(tmp_path):
    """A function that writes the bytes of a file, and gives its path."""

    def write(content, name="net.weights.h5"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


@pytest.fixture
def apart():
    """For tests in which h5py runs in a process of its own, as users have it, which takes a fraction of a second."""


@pytest.fixture
def h5py_mostly_here(request, monkeypatch):
    """Has h5py run in this process, unless the test takes `apart`."""
    if "apart" not in request.fixturenames:
        monkeypatch.setattr(hdf5, "run_apart", lambda path: (0, hdf5_contents.report(str(path)).encode()))
