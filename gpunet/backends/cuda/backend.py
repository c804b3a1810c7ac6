"""`CudaBackend`: every primitive launches a kernel; an operation without a kernel raises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from gpunet.backends.cuda.activation import CudaActivation
from gpunet.backends.cuda.arrays import CudaArrays
from gpunet.backends.cuda.augment import CudaAugment
from gpunet.backends.cuda.linear import CudaLinear
from gpunet.backends.cuda.local import CudaLocal
from gpunet.backends.cuda.norm import CudaNorm
from gpunet.backends.cuda.pool import CudaPool
from gpunet.backends.cuda.random import CudaRandom
from gpunet.backends.cuda.resample import CudaResample
from gpunet.backends.cuda.tile_file import table_of_environment
from gpunet.backends.cuda.update import CudaUpdate
from gpunet.cuda.arrays import Arrays
from gpunet.cuda.description import Description
from gpunet.cuda.recording import Recording, RecordingArrays, RecordingLauncher

if TYPE_CHECKING:
    from gpunet.emulator.launches import Settings


class CudaBackend(
    CudaArrays, CudaLinear, CudaPool, CudaNorm, CudaActivation, CudaResample, CudaLocal,
    CudaRandom, CudaAugment, CudaUpdate,
):  # fmt: skip
    """Computes with kernels, on arrays of CuPy or of the emulated device.

    No primitive waits for the device or reads from it. Launches go to the launcher's current
    stream. Float primitives take float32. Convolutions, products, pooling, activations, dropout,
    elementwise arithmetic and softmax cross-entropy also take float16 and bfloat16, in which arrays
    are stored while sums are float32. Other dtypes raise TypeError.
    """

    def twin(self, **changes: Any) -> CudaBackend:
        """Return a backend of the same device, but for some arguments."""
        same = {
            "arrays": self.arrays, "launcher": self.launcher, "simple": self.simple, "description": self.description,
            "tile": self.tile, "name": self.name, "device": self.cuda_device,
        }  # fmt: skip
        return CudaBackend(**{**same, **changes})


def cuda_backend(device: int = 0) -> CudaBackend:
    """Return the backend of one CUDA device, on CuPy, with the table of tiles that `GPUNET_TILES` names.

    Args:
        device: number of the device.
    Raises:
        ValueError: that table is broken, or of another device.
    """
    from gpunet.cuda.cupy_arrays import CupyArrays, own_device
    from gpunet.cuda.launcher import CupyLauncher

    # an unpickled model finds its backend by this name
    arrays, name = CupyArrays(device), "cuda" if device == own_device() else f"cuda:{device}"
    description = arrays.description()
    table = table_of_environment(arrays.describe()["device"], description)
    launcher = CupyLauncher(device, arrays.owns)
    return CudaBackend(arrays, launcher, description=description._replace(table=table), name=name, device=device)


def emulated_backend(settings: Settings | None = None, *, memory: int | None = None) -> CudaBackend:
    """Return the backend of a new emulated device, on this machine's CPU.

    Args:
        settings: how kernels are run; read from the environment if None.
        memory: bytes of the device's memory; those of this machine if None.
    """
    from gpunet.cuda.emulated import EmulatedLauncher
    from gpunet.emulator.arrays import EmulatedArrays
    from gpunet.emulator.launches import Settings

    settings = settings or Settings.from_environment()
    arrays = EmulatedArrays(track=settings.checked, properties=settings.describe(), memory=memory)
    launcher = EmulatedLauncher(arrays, settings)
    description = launcher.description()
    table = table_of_environment(arrays.describe()["device"], description, only_own=True)
    return CudaBackend(arrays, launcher, description=description._replace(table=table), name="emulated")


def dry_backend(name: str, description: Description) -> CudaBackend:
    """Return a backend that runs nothing: its arrays have no memory, and its launches are checked alone.

    Args:
        name: the device that it stands for.
        description: that device's numbers.
    """
    from gpunet.cuda.dry import DryArrays, DryLauncher

    arrays = DryArrays(name)
    return CudaBackend(cast(Arrays, arrays), DryLauncher(arrays.owns), description=description, name=f"{name}, not run")


def recording_backend(backend: CudaBackend) -> tuple[CudaBackend, Recording]:
    """Return (another backend on the same device, a recording of its launches and allocations)."""
    recording = Recording()
    arrays = cast(Arrays, RecordingArrays(backend.arrays, recording))
    launcher = RecordingLauncher(backend.launcher, backend.arrays, recording)
    return backend.twin(arrays=arrays, launcher=launcher), recording
