"""gpunet: convolutional networks on NumPy or CuPy, small enough to read and fast enough to use."""

from gpunet import data, functional, models, nn, optim, random
from gpunet.autograd import Function, Parameter, Tensor, no_grad, tensor
from gpunet.backends import available_backends, get_backend
from gpunet.errors import BackendError
from gpunet.random import seed
from gpunet.train import Trainer
from gpunet.version import __version__

__all__ = [
    "BackendError",
    "Function",
    "Parameter",
    "Tensor",
    "Trainer",
    "__version__",
    "available_backends",
    "data",
    "functional",
    "get_backend",
    "models",
    "nn",
    "no_grad",
    "optim",
    "random",
    "seed",
    "tensor",
]
