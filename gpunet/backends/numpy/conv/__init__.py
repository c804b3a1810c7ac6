"""Convolution of `NumpyBackend`, by one of four algorithms.

`registry` chooses by the shapes alone:

    conv2d_forward, conv2d_weight_grad
    │
    ├─ one filter for each channel? ────────────────── Depthwise: a sum over taps
    ├─ 3x3 windows side by side, many channels? ────── Winograd: tiles of 2x2 results, then BLAS
    ├─ few channels, 16 images or more, not 1x1? ───── Planes: images innermost, then BLAS
    └─ else ────────────────────────────────────────── Columns: windows as a matrix, then BLAS

    conv2d_input_grad
    │
    ├─ Depthwise or Planes, by the same questions ──── input_grad of the algorithm
    ├─ Winograd, or Columns, and the window is a
    │  whole number of strides and the images are
    │  large enough? ───────────────────────────────── subpixel: dy convolved by either's forward
    └─ else ────────────────────────────────────────── Columns.input_grad: adds up the taps

These are NumPy's; the loops of `compiled.conv` take their place where they can be had. A 1x1
convolution that reads every pixel once is a product of matrices: its two gradients are calls of
`matmul`. `primitives` runs the algorithm on blocks of images, on all threads.
"""
