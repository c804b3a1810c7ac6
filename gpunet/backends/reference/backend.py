"""`ReferenceBackend`: each primitive in the plainest array code."""

from gpunet.backends.host.linear import HostLinear
from gpunet.backends.reference.activation import ReferenceActivation
from gpunet.backends.reference.augment import ReferenceAugment
from gpunet.backends.reference.conv import ReferenceConv
from gpunet.backends.reference.local import ReferenceLocal
from gpunet.backends.reference.loss import ReferenceLoss
from gpunet.backends.reference.matmul import ReferenceMatmul
from gpunet.backends.reference.norm import ReferenceNorm
from gpunet.backends.reference.pool import ReferencePool
from gpunet.backends.reference.random import ReferenceRandom
from gpunet.backends.reference.resample import ReferenceResample
from gpunet.backends.reference.update import ReferenceUpdate


class ReferenceBackend(
    ReferenceConv, HostLinear, ReferenceMatmul, ReferencePool, ReferenceNorm, ReferenceActivation, ReferenceLoss,
    ReferenceResample, ReferenceLocal, ReferenceRandom, ReferenceAugment, ReferenceUpdate,
):  # fmt: skip
    """Computes in any float dtype, in code that is written to be read, not to be fast."""

    name = "reference"
    dtypes = ("float16", "bfloat16", "float32", "float64")
