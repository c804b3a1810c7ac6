"""`NumpyBackend`: fast primitives on the CPU."""

from gpunet.backends.host.linear import HostLinear
from gpunet.backends.numpy.arrays import NumpyArrays
from gpunet.backends.numpy.compiled.activation import CompiledActivation
from gpunet.backends.numpy.compiled.augment import CompiledAugment
from gpunet.backends.numpy.compiled.conv import CompiledConv
from gpunet.backends.numpy.compiled.loss import CompiledLoss
from gpunet.backends.numpy.compiled.matmul import CompiledMatmul
from gpunet.backends.numpy.compiled.norm import CompiledNorm
from gpunet.backends.numpy.compiled.pool import CompiledPool
from gpunet.backends.numpy.compiled.random import CompiledRandom
from gpunet.backends.numpy.compiled.resample import CompiledResample
from gpunet.backends.numpy.compiled.update import CompiledUpdate
from gpunet.backends.numpy.local import NumpyLocal


class NumpyBackend(
    CompiledConv, NumpyArrays, HostLinear, CompiledMatmul, CompiledPool, CompiledNorm, CompiledActivation, CompiledLoss,
    CompiledResample, NumpyLocal, CompiledRandom, CompiledAugment, CompiledUpdate,
):  # fmt: skip
    """Computes with compiled loops where they can be had, and with BLAS, strided views and threads; see
    `CompiledLoops` for its arguments."""

    name = "numpy"
    dtypes = ("float32", "float64")
