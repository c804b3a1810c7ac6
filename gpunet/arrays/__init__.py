"""The primitives on plain arrays of NumPy and CuPy, for programs that need no framework.

Each function computes on the kind of arrays that it is given and returns that kind: on NumPy's in
float32 or float64, on CuPy's in float32, float16 or bfloat16, on the array's device and on CuPy's
current stream. Nothing is recorded, and nothing is converted: arrays of a call have one dtype.
Arrays that are not C-contiguous are copied first.

``layout="NCHW"`` takes and gives images (N, C, H, W) and filters (O, I, KH, KW) instead of (N, H, W,
C) and (KH, KW, I, O). They are transposed on the way in and out, for the kernels compute in NHWC.

``out=`` takes the array, or the arrays, to write results to, of the right shape and dtype and of any
strides. A result is computed first and then copied there, so that an `out` may share memory with the
inputs; it gives results a place, but saves no memory.

Nothing reads from a GPU or waits for it, so that a CUDA graph can capture every function, once it
has been called on the same stream with the same shapes: the first call compiles kernels and makes
counters and tables.
"""

from gpunet.arrays.conv import conv2d, conv2d_input_grad, conv2d_weight_grad, conv_transpose2d, depthwise_conv2d
from gpunet.arrays.norm import batch_norm, batch_norm_grad
from gpunet.arrays.pool import avg_pool2d, avg_pool2d_grad, max_pool2d, max_unpool2d
from gpunet.arrays.product import matmul, softmax_cross_entropy
from gpunet.arrays.resample import upsample2d, upsample2d_grad

__all__ = [
    "avg_pool2d", "avg_pool2d_grad", "batch_norm", "batch_norm_grad", "conv2d", "conv2d_input_grad", "conv2d_weight_grad",
    "conv_transpose2d", "depthwise_conv2d", "matmul", "max_pool2d", "max_unpool2d", "softmax_cross_entropy", "upsample2d",
    "upsample2d_grad",
]  # fmt: skip
