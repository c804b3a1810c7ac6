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
from gpunet.nn.local import LocallyConnected2d
from gpunet.nn.module import Buffer, Module
from gpunet.nn.norm import BatchNorm2d
from gpunet.nn.resample import (
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    ReflectionPad2d,
    ReplicationPad2d,
    Upsample2d,
    ZeroPad2d,
)
from gpunet.nn.sequential import Concat, Residual, Sequential
from gpunet.nn.transposed import ConvTranspose2d

__all__ = [
    "GELU",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "AvgPool2d",
    "BatchNorm2d",
    "Buffer",
    "Concat",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "GlobalMaxPool2d",
    "LeakyReLU",
    "Linear",
    "LocallyConnected2d",
    "LogSoftmax",
    "MaxPool2d",
    "Module",
    "Parameter",
    "ReLU",
    "ReflectionPad2d",
    "ReplicationPad2d",
    "Residual",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "Upsample2d",
    "ZeroPad2d",
    "fold_batch_norm",
    "init",
    "parameter",
]
