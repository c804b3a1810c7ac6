"""A CUDA backend on host arrays that checks and records its launches but does not run them."""

from typing import Any

import numpy as np

from gpunet.backends.cuda.backend import CudaBackend
from gpunet.cuda.launcher import Launcher


class HostArrays:
    """NumPy arrays that are used as `gpunet.cuda.arrays.Arrays`."""

    def owns(self, array: object) -> bool:
        return isinstance(array, np.ndarray)

    def empty(self, shape: Any, dtype: Any) -> np.ndarray:
        whole = np.zeros(int(np.prod(shape)) * np.dtype(dtype).itemsize + 16, np.uint8)
        start = -whole.ctypes.data % 16  # aligned, as on a device
        return whole[start : len(whole) - 16 + start].view(dtype).reshape(shape)

    def asarray(self, data: Any, dtype: Any = None) -> np.ndarray:
        data = np.asarray(data, dtype)
        y = self.empty(data.shape, data.dtype)
        y[...] = data
        return y

    def to_host(self, array: np.ndarray) -> np.ndarray:
        raise AssertionError("a primitive read the device")

    def pointer(self, array: np.ndarray) -> int:
        return array.ctypes.data

    def synchronize(self) -> None:
        raise AssertionError("a primitive waited for the device")

    def wait(self) -> None:
        """Return at once: a copy to a host array needs no wait."""

    def stream_key(self) -> int:
        return 0

    def describe(self) -> dict[str, str]:
        return {}


class RecordingLauncher(Launcher):
    """Checks every launch, and keeps its kernel, grid and arguments."""

    def __init__(self) -> None:
        super().__init__(lambda a: isinstance(a, np.ndarray))
        self.launches: list[tuple[str, tuple[int, ...], list[Any]]] = []

    @property
    def kernels(self) -> list[str]:
        return [name for name, _, _ in self.launches]

    def run(
        self, file: str, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: list[Any], shared: int
    ) -> None:
        self.launches.append((kernel, grid, args))


def recording_backend(*, simple: bool = False) -> CudaBackend:
    return CudaBackend(HostArrays(), RecordingLauncher(), simple=simple)
