"""`Backend`: all primitives together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

from gpunet.backends.contract.activation import ActivationPrimitives
from gpunet.backends.contract.arrays import ArrayPrimitives
from gpunet.backends.contract.augment import AugmentPrimitives
from gpunet.backends.contract.conv import ConvPrimitives
from gpunet.backends.contract.linear import LinearPrimitives
from gpunet.backends.contract.local import LocalPrimitives
from gpunet.backends.contract.loss import LossPrimitives
from gpunet.backends.contract.matmul import MatmulPrimitives
from gpunet.backends.contract.norm import NormPrimitives
from gpunet.backends.contract.pool import PoolPrimitives
from gpunet.backends.contract.random import RandomPrimitives
from gpunet.backends.contract.resample import ResamplePrimitives
from gpunet.backends.contract.update import UpdatePrimitives
from gpunet.cuda.capture import Recorder

__all__ = ["Backend"]


class Backend(
    ConvPrimitives, ArrayPrimitives, LinearPrimitives, MatmulPrimitives, PoolPrimitives, NormPrimitives, ActivationPrimitives,
    LossPrimitives, ResamplePrimitives, LocalPrimitives, RandomPrimitives, AugmentPrimitives,
    UpdatePrimitives,
):  # fmt: skip
    """Where arrays live and primitives run."""

    name: str
    dtypes: ClassVar[tuple[str, ...]]
    """Float dtypes that the primitives compute in."""
    narrow: ClassVar[tuple[str, ...]] = ()
    """Those of `dtypes` in which arrays are stored in 16 bits while sums are float32. Parameters
    stay float32, and are rounded when an operation takes them."""
    cuda_device: int | None = None
    """The number of the CUDA device whose memory holds the arrays, which are CuPy's; None elsewhere."""
    find: ClassVar[Callable[[str], Backend]]
    """`get_backend`, which the registry, above this module, sets here."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the name alone: a copied or unpickled model finds its backend by it."""
        return type(self).find, (self.name,)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @property
    def matrix_units(self) -> tuple[str, ...]:
        """The precisions that this backend computes on matrix units: of `MATRIX_PRECISIONS` those other
        than float32, and of `narrow`. A backend may compute them only for some shapes."""
        return ()

    def recorder(self) -> Recorder | None:
        """A recorder of launches, which replays them as a graph; None without launches."""
        return None
