"""Convolution of `NumpyBackend`: windows are copied into columns and multiplied by BLAS.

`registry` chooses among three forms: `columns` with many channels, `planes` with few, `depthwise` with a filter for each
channel. `subpixel` computes input gradients as convolutions.
"""
