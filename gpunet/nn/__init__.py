"""Layers and networks: ``from gpunet import nn``."""

from gpunet.autograd import Parameter, parameter
from gpunet.nn import init
from gpunet.nn.folding import fold_batch_norm
from gpunet.nn.layers import (
    GELU,
    AvgPool2d,
    Conv2d,
    Dropout,
    Flatten,
    LeakyReLU,
    Linear,
    LogSoftmax,
    MaxPool2d,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)
from gpunet.nn.module import Buffer, Module
from gpunet.nn.norm import BatchNorm2d
from gpunet.nn.sequential import Residual, Sequential
from gpunet.nn.transposed import ConvTranspose2d

__all__ = [
    "GELU",
    "AvgPool2d",
    "BatchNorm2d",
    "Buffer",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Flatten",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MaxPool2d",
    "Module",
    "Parameter",
    "ReLU",
    "Residual",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "fold_batch_norm",
    "init",
    "parameter",
]
