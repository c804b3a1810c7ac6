"""`NumpyBackend`: fast primitives on the CPU."""

from gpunet.backends.host.linear import HostLinear
from gpunet.backends.numpy.activation import NumpyActivation
from gpunet.backends.numpy.arrays import NumpyArrays
from gpunet.backends.numpy.augment import NumpyAugment
from gpunet.backends.numpy.conv.primitives import NumpyConv
from gpunet.backends.numpy.local import NumpyLocal
from gpunet.backends.numpy.loss import NumpyLoss
from gpunet.backends.numpy.matmul import NumpyMatmul
from gpunet.backends.numpy.norm import NumpyNorm
from gpunet.backends.numpy.pool import NumpyPool
from gpunet.backends.numpy.random import NumpyRandom
from gpunet.backends.numpy.resample import NumpyResample
from gpunet.backends.numpy.update import NumpyUpdate


class NumpyBackend(
    NumpyArrays, NumpyConv, HostLinear, NumpyMatmul, NumpyPool, NumpyNorm, NumpyActivation, NumpyLoss, NumpyResample,
    NumpyLocal, NumpyRandom, NumpyAugment, NumpyUpdate,
):  # fmt: skip
    """Computes with BLAS, strided views and threads: see `NumpyThreads` for its argument."""

    name = "numpy"
    dtypes = ("float32", "float64")
