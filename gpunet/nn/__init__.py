"""Layers and networks: ``from gpunet import nn``."""

from gpunet.autograd import Parameter, parameter
from gpunet.nn import init
from gpunet.nn.activation import (
    ELU,
    GELU,
    HardSigmoid,
    HardSwish,
    HardTanh,
    LeakyReLU,
    LogSoftmax,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from gpunet.nn.folding import fold_batch_norm
from gpunet.nn.layers import AvgPool2d, Conv2d, Flatten, Linear, MaxPool2d
from gpunet.nn.module import Buffer, Module
from gpunet.nn.norm import BatchNorm2d, GroupNorm, LayerNorm
from gpunet.nn.regularise import Dropout, Dropout2d, GaussianNoise
from gpunet.nn.sequential import Residual, Sequential
from gpunet.nn.transposed import ConvTranspose2d

__all__ = [
    "ELU",
    "GELU",
    "AvgPool2d",
    "BatchNorm2d",
    "Buffer",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Dropout2d",
    "Flatten",
    "GaussianNoise",
    "GroupNorm",
    "HardSigmoid",
    "HardSwish",
    "HardTanh",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MaxPool2d",
    "Module",
    "PReLU",
    "Parameter",
    "ReLU",
    "ReLU6",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "fold_batch_norm",
    "init",
    "parameter",
]
