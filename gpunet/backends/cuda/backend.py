"""`CudaBackend`: every primitive is a launch of a kernel in `kernels/`; what has no kernel raises."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from gpunet.backends.cuda.activation import CudaActivation
from gpunet.backends.cuda.arrays import CudaArrays
from gpunet.backends.cuda.augment import CudaAugment
from gpunet.backends.cuda.conv import CudaConv
from gpunet.backends.cuda.local import CudaLocal
from gpunet.backends.cuda.loss import CudaLoss
from gpunet.backends.cuda.matmul import CudaMatmul
from gpunet.backends.cuda.norm import CudaNorm
from gpunet.backends.cuda.pool import CudaPool
from gpunet.backends.cuda.random import CudaRandom
from gpunet.backends.cuda.resample import CudaResample
from gpunet.backends.cuda.update import CudaUpdate
from gpunet.cuda.arrays import Arrays
from gpunet.cuda.recording import Recording, RecordingArrays, RecordingLauncher

if TYPE_CHECKING:
    from gpunet.emulator.launches import Settings


class CudaBackend(
    CudaArrays,
    CudaConv,
    CudaMatmul,
    CudaPool,
    CudaNorm,
    CudaActivation,
    CudaLoss,
    CudaResample,
    CudaLocal,
    CudaRandom,
    CudaAugment,
    CudaUpdate,
):
    """Primitives as kernels, on CuPy's arrays or an emulator's.

    No primitive waits for the device or reads it. Launches go to the launcher's current stream. Float primitives take
    float32; convolutions, products, pooling, activations, dropout, elementwise arithmetic and softmax cross entropy also
    float16 and bfloat16, in which arrays are stored while sums are float32. Anything else raises TypeError and says so.
    """


def cuda_backend(device: int = 0) -> CudaBackend:
    """The backend of one CUDA device, on CuPy.

    Args:
        device: its number.
    """
    from gpunet.cuda.cupy_arrays import CupyArrays
    from gpunet.cuda.launcher import CupyLauncher

    arrays = CupyArrays(device)
    return CudaBackend(arrays, CupyLauncher(device, arrays.owns), name=f"cuda:{device}" if device else "cuda")


def emulated_backend(settings: Settings | None = None, *, memory: int | None = None) -> CudaBackend:
    """The backend of a new emulated device, on this machine's CPU.

    Args:
        settings: how kernels are run; what the environment says if None.
        memory: bytes of the device; None for as many as this machine has.
    """
    from gpunet.cuda.emulated import EmulatedLauncher
    from gpunet.emulator.arrays import EmulatedArrays
    from gpunet.emulator.launches import Settings

    settings = settings or Settings.from_environment()
    arrays = EmulatedArrays(track=settings.checked, properties=settings.describe(), memory=memory)
    return CudaBackend(arrays, EmulatedLauncher(arrays, settings), name="emulated")


def recording_backend(backend: CudaBackend) -> tuple[CudaBackend, Recording]:
    """(another backend on the same device, what it is asked for from now on): its launches and allocations."""
    recording = Recording()
    arrays = cast(Arrays, RecordingArrays(backend.arrays, recording))
    launcher = RecordingLauncher(backend.launcher, backend.arrays, recording)
    return CudaBackend(arrays, launcher, simple=backend.simple, busy=backend.busy, name=backend.name), recording
