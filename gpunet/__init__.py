"""gpunet: convolutional networks on NumPy or CuPy, small enough to read and fast enough to use."""

from typing import TYPE_CHECKING, Any

from gpunet import arrays, data, functional, models, nn, optim, random
from gpunet.autograd import Function, Parameter, Tensor, no_grad, tensor
from gpunet.backends import available_backends, get_backend
from gpunet.errors import BackendError, DamagedFileError
from gpunet.modes import matrix_precision
from gpunet.random import seed
from gpunet.report.summary import summary
from gpunet.train import Trainer
from gpunet.version import __version__

if TYPE_CHECKING:
    from gpunet.report.drawing import draw
    from gpunet.report.plan import plan

__all__ = [
    "BackendError", "DamagedFileError", "Function", "Parameter", "Tensor", "Trainer", "__version__",
    "arrays", "available_backends", "data", "draw", "functional", "get_backend", "matrix_precision", "models", "nn", "no_grad",
    "optim", "plan", "random", "seed", "summary", "tensor",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import `plan` and `draw` at their first use; `plan` loads the CUDA backend, a tenth of the import time."""
    if name == "plan":
        from gpunet.report.plan import plan

        return plan
    if name == "draw":
        from gpunet.report.drawing import draw

        return draw
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
