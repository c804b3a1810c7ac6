"""Calls of `gpunet.arrays` as a table, for the tests that hold for all of its functions."""

from dataclasses import dataclass, field

import numpy as np

from gpunet import arrays as A
from helpers.values import apart

IMAGES, FILTERS = (0, 3, 1, 2), (3, 2, 0, 1)
"""The axes of (N, H, W, C) in the order of "NCHW", and of (KH, KW, I, O) in that of (O, I, KH, KW)."""


def turned(array, kind, layout):
    """An array of a kind ("image", "filters" or "other") in a layout, as a view."""
    axes = {"image": IMAGES, "filters": FILTERS}.get(kind) if layout == "NCHW" else None
    return array if axes is None else array.transpose(axes)


@dataclass(frozen=True)
class Case:
    """A function, its inputs in NHWC, and what kinds of arrays go in and out.

    A list in `options` is a shape (N, H, W, C), which goes to the function in the call's layout.
    """

    name: str
    inputs: tuple
    kinds: tuple
    results: tuple
    options: dict = field(default_factory=dict)
    labels: bool = False
    """Whether the second input is of integers."""
    layouts: tuple = ("NHWC", "NCHW")

    def arrays(self, dtype):
        """The inputs in a dtype; integers stay integers."""
        return [a if a.dtype.kind in "iu" else a.astype(dtype) for a in self.inputs]

    def call(self, arrays, layout="NHWC", out=None):
        """The results as a tuple; the arrays are in the layout already."""
        options = {k: self.shape(v, layout) if isinstance(v, list) else v for k, v in self.options.items()}
        if len(self.layouts) > 1:
            options["layout"] = layout
        made = getattr(A, self.name)(*arrays, **options, out=out)
        return made if isinstance(made, tuple) else (made,)

    @staticmethod
    def shape(extents, layout):
        return tuple(extents[i] for i in IMAGES) if layout == "NCHW" else tuple(extents)


def cases():
    """Every function, with options that are not the usual ones, extents that differ, and remainders."""
    rng = np.random.default_rng(0)
    r = lambda *shape: rng.normal(size=shape)  # noqa: E731
    conv = {"stride": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": (1, 2), "groups": 2}
    x, dy, w, pooled = (2, 7, 6, 4), (2, 3, 5, 6), (3, 3, 2, 6), (2, 4, 3, 3)
    mask = rng.integers(0, 4, pooled).astype(np.uint8)
    mask[:, -1] = 1  # no padded pixel wins
    pool = {"kernel_size": 2, "stride": 2, "padding": ((0, 1), (0, 0))}
    labels = rng.integers(0, 5, (3, 4))
    bn = r(2, 3, 4, 5), r(5), r(5) ** 2 + 0.5, r(5), r(5)
    image, filters, other = "image", "filters", "other"
    listed = [
        Case("conv2d", (r(*x), r(*w), r(6)), (image, filters, other), (image,), conv),
        Case("conv2d_input_grad", (r(*dy), r(*w)), (image, filters), (image,), {**conv, "x_shape": list(x)}),
        Case("conv2d_weight_grad", (r(*dy), r(*x)), (image, image), (filters, other), {**conv, "kernel_size": 3}),
        Case("conv_transpose2d", (r(2, 3, 4, 5), r(3, 2, 3, 5), r(3)), (image, filters, other), (image,),
             {"stride": 2, "padding": (1, 0), "output_padding": (1, 0)}),
        Case("depthwise_conv2d", (r(2, 6, 5, 3), r(3, 2, 1, 6), r(6)), (image, filters, other), (image,), {"padding": 1}),
        Case("max_pool2d", (apart(rng, (2, 7, 6, 3)),), (image,), (image, image), {**pool, "return_mask": True}),
        Case("max_unpool2d", (r(*pooled), mask), (image, image), (image,), {**pool, "x_shape": [2, 7, 6, 3]}),
        Case("avg_pool2d", (r(2, 7, 6, 3),), (image,), (image,), {**pool, "count_padding": False}),
        Case("avg_pool2d_grad", (r(*pooled),), (image,), (image,),
             {**pool, "x_shape": [2, 7, 6, 3], "count_padding": False}),
        Case("batch_norm", bn, (image, other, other, other, other), (image,), {"training": False}),
        Case("batch_norm", bn, (image, other, other, other, other), (image, other, other),
             {"training": True, "return_moments": True}),
        Case("batch_norm_grad", (bn[0] * 2 + 1, *bn[:4]), (image, image, other, other, other), (image, other, other),
             {"training": True, "eps": 1e-3}),
        Case("upsample2d", (r(2, 3, 4, 3),), (image,), (image,), {"size": (7, 5), "mode": "bilinear"}),
        Case("upsample2d_grad", (r(2, 6, 8, 3),), (image,), (image,), {"x_shape": [2, 3, 4, 3], "scale_factor": 2}),
        Case("softmax_cross_entropy", (r(3, 4, 5), labels, r(5) ** 2), (other,) * 3, (other,) * 2,
             {"ignore_index": 2, "label_smoothing": 0.1}, labels=True, layouts=("NHWC",)),
        Case("matmul", (r(5, 4), r(4, 3)), (other, other), (other,), layouts=("NHWC",)),
        Case("matmul", (r(2, 4, 5), r(2, 3, 4)), (other, other), (other,), {"transpose_a": True, "transpose_b": True},
             layouts=("NHWC",)),
    ]  # fmt: skip
    return {f"{case.name} {i}": case for i, case in enumerate(listed)}


CASES = cases()
