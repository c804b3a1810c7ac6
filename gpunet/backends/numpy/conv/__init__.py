"""Convolution of `NumpyBackend`, by one of three algorithms.

`registry` chooses by the shapes alone:

    conv2d_forward, conv2d_weight_grad
    │
    ├─ each channel has one filter of its own? ────────────────────── Depthwise   a sum over taps
    ├─ C < 16 and O < 32 per group, 16 images or more, not 1x1? ───── Planes      images innermost, then BLAS
    └─ else ───────────────────────────────────────────────────────── Columns     windows as matrix rows, then BLAS

    conv2d_input_grad
    │
    ├─ Depthwise or Planes by the questions above ─────────────────── their input_grad
    └─ Columns: window a whole number of strides, large images? ─┬─ yes: subpixel, a convolution of dy by Columns.forward
                                                                 └─ no: Columns.input_grad, which adds up the taps

A 1x1 convolution that reads every pixel once is a product of matrices: its two gradients are calls
of `matmul`. `primitives` runs the algorithm on blocks of images, on all threads.
"""
