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
from gpunet.nn.layers import AvgPool2d, Conv2d, Flatten, Identity, Linear, MaxPool2d
from gpunet.nn.local import LocallyConnected2d
from gpunet.nn.module import Buffer, Module
from gpunet.nn.norm import BatchNorm2d, GroupNorm, LayerNorm
from gpunet.nn.regularise import Dropout, Dropout2d, GaussianNoise
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
    "ELU", "GELU", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "AvgPool2d", "BatchNorm2d", "Buffer", "Concat",
    "Conv2d", "ConvTranspose2d", "Dropout", "Dropout2d", "Flatten", "GaussianNoise", "GlobalAvgPool2d",
    "GlobalMaxPool2d", "GroupNorm", "HardSigmoid", "HardSwish", "HardTanh", "Identity", "LayerNorm", "LeakyReLU",
    "Linear", "LocallyConnected2d", "LogSoftmax", "MaxPool2d", "Module", "PReLU", "Parameter", "ReLU", "ReLU6",
    "ReflectionPad2d", "ReplicationPad2d", "Residual", "Sequential", "SiLU", "Sigmoid", "Softmax", "Softplus",
    "Tanh", "Upsample2d", "ZeroPad2d", "fold_batch_norm", "init", "parameter",
]  # fmt: skip
