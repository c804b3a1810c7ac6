"""The public operations on tensors: ``from gpunet import functional as F``."""

from gpunet.functional.activation import (
    elu,
    gelu,
    hard_sigmoid,
    hard_swish,
    hard_tanh,
    leaky_relu,
    log_softmax,
    prelu,
    relu,
    relu6,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from gpunet.functional.arithmetic import (
    abs,
    add,
    cast,
    divide,
    exp,
    log,
    multiply,
    negative,
    power,
    sqrt,
    subtract,
)
from gpunet.functional.conv import conv2d, linear
from gpunet.functional.distance import all_pairs_loss, contrastive_loss, squared_distances, triplet_loss
from gpunet.functional.focal import focal_loss, sigmoid_focal_loss
from gpunet.functional.indexing import index
from gpunet.functional.labels import one_hot
from gpunet.functional.local import locally_connected2d
from gpunet.functional.loss import binary_cross_entropy_with_logits, cross_entropy, kl_div, nll_loss
from gpunet.functional.movement import concatenate, flatten, reshape, squeeze, stack, transpose, unsqueeze
from gpunet.functional.norm import batch_norm, group_norm, layer_norm
from gpunet.functional.operators import bind_operators
from gpunet.functional.overlap import dice_loss, giou, giou_loss, iou, iou_loss
from gpunet.functional.pool import avg_pool2d, max_pool2d
from gpunet.functional.product import matmul
from gpunet.functional.reduction import argmax, argmin, max, mean, min, sum
from gpunet.functional.regression import huber_loss, l1_loss, mse_loss, smooth_l1_loss
from gpunet.functional.regularise import dropout, dropout2d, gaussian_noise
from gpunet.functional.resample import adaptive_avg_pool2d, adaptive_max_pool2d, pad2d, upsample2d
from gpunet.functional.selection import clip, maximum, minimum, where
from gpunet.functional.spread import std, var
from gpunet.functional.transposed import conv_transpose2d

bind_operators()

__all__ = [
    "abs",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "add",
    "all_pairs_loss",
    "argmax",
    "argmin",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "cast",
    "clip",
    "concatenate",
    "contrastive_loss",
    "conv2d",
    "conv_transpose2d",
    "cross_entropy",
    "dice_loss",
    "divide",
    "dropout",
    "dropout2d",
    "elu",
    "exp",
    "flatten",
    "focal_loss",
    "gaussian_noise",
    "gelu",
    "giou",
    "giou_loss",
    "group_norm",
    "hard_sigmoid",
    "hard_swish",
    "hard_tanh",
    "huber_loss",
    "index",
    "iou",
    "iou_loss",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "locally_connected2d",
    "log",
    "log_softmax",
    "matmul",
    "max",
    "max_pool2d",
    "maximum",
    "mean",
    "min",
    "minimum",
    "mse_loss",
    "multiply",
    "negative",
    "nll_loss",
    "one_hot",
    "pad2d",
    "power",
    "prelu",
    "relu",
    "relu6",
    "reshape",
    "sigmoid",
    "sigmoid_focal_loss",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "softplus",
    "sqrt",
    "squared_distances",
    "squeeze",
    "stack",
    "std",
    "subtract",
    "sum",
    "tanh",
    "transpose",
    "triplet_loss",
    "unsqueeze",
    "upsample2d",
    "var",
    "where",
]
