"""The contract between arrays and everything above them: `Backend`, whose primitives every backend computes.

Each topic has a file here and one of the same name on every side: `host`, `reference`, `numpy` and `cuda`.

Letters of the shapes: N images, H x W pixels, C channels, KH x KW a window, OH x OW output pixels, O filters. Layouts are
x (N, H, W, C) and w (KH, KW, C // groups, O). An `Array` is the backend's own C-contiguous array; primitives never change
their inputs, and return new arrays unless an `out` is given.
"""
