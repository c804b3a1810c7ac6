"""The operators of ONNX that gpunet runs: one topic a file, all of them in one table."""

from gpunet.interop.onnx.loading.operators import (
    activation,
    arithmetic,
    convolution,
    movement,
    normalisation,
    pooling,
    reduction,
    resize,
    shapes,
)
from gpunet.interop.onnx.loading.operators.registry import OPERATORS, Operator

__all__ = [
    "OPERATORS", "Operator", "activation", "arithmetic", "convolution", "movement", "normalisation", "pooling",
    "reduction", "resize", "shapes",
]  # fmt: skip
