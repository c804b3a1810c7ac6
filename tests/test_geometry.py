import re

import numpy as np
import pytest
from helpers.geometries import convolutions, pools
from hypothesis import given, settings

from gpunet import nn
from gpunet.geometry import Geometry


def starts(n, effective, stride, before, after):
    """First pixels of the windows that fit into the padded axis, one by one."""
    return [s for s in range(-before, n + after) if (s + before) % stride == 0 and s + effective <= n + after]


@pytest.mark.parametrize(
    ("padding", "y_shape"), [(1, (1, 14, 14, 20)), ("same", (1, 16, 16, 20)), ("valid", (1, 13, 13, 20))]
)
def test_conv_of_32_pixels_with_20_filters_8x8_at_stride_2(padding, y_shape):
    assert Geometry.conv((1, 32, 32, 3), (8, 8, 3, 20), stride=2, padding=padding).y_shape == y_shape


def test_ten_filters_5x5_on_32x32x3_keep_the_size_and_take_760_parameters():
    assert Geometry.conv((1, 32, 32, 3), (5, 5, 3, 10), padding="same").y_shape == (1, 32, 32, 10)
    layer = nn.Conv2d(3, 10, 5, padding="same")
    assert sum(p.size for p in layer.parameters()) == (5 * 5 * 3 + 1) * 10 == 760


@pytest.mark.parametrize(
    ("n", "window", "stride", "dilation", "total"),
    [(32, 8, 2, 1, 6), (5, 2, 1, 1, 1), (7, 3, 2, 1, 2), (8, 3, 2, 1, 1), (10, 2, 3, 1, 1), (9, 3, 1, 2, 4)],
)
def test_same_pads_the_odd_pixel_at_the_end(n, window, stride, dilation, total):
    g = Geometry.conv((1, n, n, 1), (window, window, 1, 1), stride=stride, dilation=dilation, padding="same")
    assert g.padding == ((total // 2, total - total // 2),) * 2
    assert g.y_shape[1] == -(-n // stride)


@pytest.mark.parametrize(
    ("padding", "resolved"),
    [
        (2, ((2, 2), (2, 2))),
        ((1, 0), ((1, 1), (0, 0))),
        ([1, 0], ((1, 1), (0, 0))),
        (((1, 2), (3, 0)), ((1, 2), (3, 0))),
        ([[1, 2], [3, 0]], ((1, 2), (3, 0))),
        (((1, 2), 3), ((1, 2), (3, 3))),
        ("valid", ((0, 0), (0, 0))),
    ],
)
def test_padding_is_written_in_many_ways(padding, resolved):
    assert Geometry.conv((1, 9, 8, 1), (4, 4, 1, 1), padding=padding).padding == resolved


@given(convolutions())
@settings(max_examples=300)
def test_conv_output_counts_the_windows_that_fit(case):
    g, options = case.geometry, case.arguments
    for axis in (0, 1):
        effective = g.dilation[axis] * (g.window[axis] - 1) + 1
        assert g.effective_window[axis] == effective
        places = starts(g.x_shape[1 + axis], effective, g.stride[axis], *g.padding[axis])
        assert g.y_shape[1 + axis] == len(places)
        if options["padding"] == "same":
            assert len(places) == -(-g.x_shape[1 + axis] // g.stride[axis])
    assert (g.y_shape[0], g.y_shape[3]) == (case.x_shape[0], case.w_shape[3])
    assert g.w_shape == case.w_shape


@given(pools())
@settings(max_examples=300)
def test_pool_output_counts_the_windows_that_fit_and_none_is_all_padding(case):
    g = case.geometry
    assert g.stride == (case.arguments["stride"] or case.window)
    for axis in (0, 1):
        n = g.x_shape[1 + axis]
        places = starts(n, g.window[axis], g.stride[axis], *g.padding[axis])
        assert g.y_shape[1 + axis] == len(places)
        assert all(s < n and s + g.window[axis] > 0 for s in places)
    assert (g.y_shape[0], g.y_shape[3]) == (case.x_shape[0], case.x_shape[3])


def test_equal_geometries_are_equal_and_hashable():
    one = Geometry.conv([2, 9, 8, 4], [3, 3, 2, 6], padding=[1, 1], groups=2)
    other = Geometry.conv((2, 9, 8, 4), (3, 3, 2, 6), padding=((1, 1), (1, 1)), groups=2)
    assert one == other
    assert hash(one) == hash(other)
    assert one.multiply_adds == 2 * 9 * 8 * 6 * 3 * 3 * 2


@pytest.mark.parametrize(("window", "dtype"), [((16, 16), "uint8"), ((1, 257), "uint16"), ((257, 256), "int32")])
def test_pool_mask_is_the_smallest_that_holds_every_position(window, dtype):
    assert Geometry.pool((1, *window, 1), window).mask_dtype == dtype


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options", "message"),
    [
        ((8, 8, 3), (3, 3, 3, 4), {}, "conv2d: x has shape (8, 8, 3) but takes 4 axes (N, H, W, C)"),
        ((2, 8, 8, 3), (3, 3, 4), {}, "conv2d: weight has shape (3, 3, 4) but takes 4 axes (KH, KW, C // groups, O)"),
        (
            (2, 8, 8, 3),
            (3, 3, 4, 6),
            {},
            "conv2d: x has 3 channels but weight expects 4 (x (2, 8, 8, 3), weight (3, 3, 4, 6))",
        ),
        (
            (2, 8, 8, 4),
            (3, 3, 4, 6),
            {"groups": 2},
            "conv2d: x has 4 channels but weight expects 4 in each of 2 groups (x (2, 8, 8, 4), weight (3, 3, 4, 6))",
        ),
        (
            (2, 8, 8, 4),
            (3, 3, 2, 5),
            {"groups": 2},
            "conv2d: groups=2 must divide the channels of x (4) and the filters of weight (5)",
        ),
        (
            (2, 8, 8, 3),
            (3, 3, 1, 4),
            {"groups": 2},
            "conv2d: groups=2 must divide the channels of x (3) and the filters of weight (4)",
        ),
        ((2, 8, 8, 3), (3, 3, 3, 4), {"groups": 0}, "conv2d: groups must be at least 1, got 0"),
        ((2, 8, 8, 3), (3, 3, 3, 4), {"stride": 0}, "conv2d: stride must be at least 1, got 0"),
        ((2, 8, 8, 3), (3, 3, 3, 4), {"stride": (1, -2)}, "conv2d: stride must be at least 1, got -2"),
        ((2, 8, 8, 3), (3, 3, 3, 4), {"stride": (1, 1, 1)}, "conv2d: stride must be one integer or two, got (1, 1, 1)"),
        ((2, 8, 8, 3), (3, 3, 3, 4), {"dilation": 0}, "conv2d: dilation must be at least 1, got 0"),
        ((2, 8, 8, 3), (3, 3, 3, 4), {"padding": -1}, "conv2d: padding must not be negative, got -1"),
        (
            (2, 8, 8, 3),
            (3, 3, 3, 4),
            {"padding": ((0, 1), (0, -1))},
            "conv2d: padding must not be negative, got ((0, 1), (0, -1))",
        ),
        ((2, 8, 8, 3), (3, 3, 3, 4), {"padding": "full"}, "conv2d: padding is 'full' but takes an integer"),
        ((2, 8, 8, 3), (3, 3, 3, 4), {"padding": (1, 1, 1)}, "conv2d: padding is (1, 1, 1) but takes an integer"),
        ((2, 8, 8, 3), (3, 3, 3, 4), {"padding": ((1, 2, 3), 1)}, "conv2d: padding is ((1, 2, 3), 1) but takes"),
        (
            (2, 4, 8, 3),
            (7, 3, 3, 4),
            {"padding": 1},
            "conv2d: a window of 7 pixels is larger than the padded height of x, 4 + 1 + 1 pixels (x (2, 4, 8, 3))",
        ),
        (
            (2, 8, 4, 3),
            (3, 3, 3, 4),
            {"dilation": 2},
            "conv2d: a window of 5 pixels is larger than the padded width of x, 4 + 0 + 0 pixels (x (2, 8, 4, 3))",
        ),
        (
            (2, 0, 8, 3),
            (3, 3, 3, 4),
            {},
            "conv2d: every extent but the number of images must be at least 1, got x (2, 0, 8, 3) with window (3, 3) and 4 "
            "filters",
        ),
    ],
)
def test_a_convolution_that_does_not_fit_says_why(x_shape, w_shape, options, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        Geometry.conv(x_shape, w_shape, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("x_shape", "window", "options", "message"),
    [
        ((8, 8, 3), 2, {}, "max_pool2d: x has shape (8, 8, 3) but takes 4 axes (N, H, W, C)"),
        ((1, 8, 8, 3), 0, {}, "max_pool2d: kernel_size must be at least 1, got 0"),
        ((1, 8, 8, 3), (2, 2, 2), {}, "max_pool2d: kernel_size must be one integer or two, got (2, 2, 2)"),
        ((1, 8, 8, 3), 2, {"stride": -1}, "max_pool2d: stride must be at least 1, got -1"),
        (
            (1, 8, 8, 3),
            (2, 3),
            {"padding": 2},
            "max_pool2d: padding ((2, 2), (2, 2)) must be smaller than kernel_size (2, 3)",
        ),
        ((1, 8, 2, 3), 3, {}, "max_pool2d: a window of 3 pixels is larger than the padded width of x, 2 + 0 + 0"),
    ],
)
def test_a_pooling_that_does_not_fit_says_why(x_shape, window, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Geometry.pool(x_shape, window, operation="max_pool2d", **options)


@pytest.mark.parametrize("option", ["stride", "dilation", "groups"])
@pytest.mark.parametrize("value", [1.0, "2", None])
def test_an_extent_that_is_no_integer_is_a_type_error(option, value):
    with pytest.raises(TypeError, match=f"conv2d: {option} must be an integer, got {value!r}"):
        Geometry.conv((1, 8, 8, 3), (3, 3, 3, 4), **{option: value})


@pytest.mark.parametrize("padding", [1.0, (1.0, 1.0), None, {"top": 1}, ((1, 1.0), (1, 1)), np.array([1, 1])])
def test_a_padding_of_the_wrong_kind_is_refused_even_after_an_equal_one(padding):
    assert Geometry.conv((1, 8, 8, 3), (3, 3, 3, 4), padding=1).y_shape == (1, 8, 8, 4)  # 1.0 == 1, in a cache too
    assert Geometry.conv((1, 8, 8, 3), (3, 3, 3, 4), padding=((1, 1), (1, 1))).y_shape == (1, 8, 8, 4)
    with pytest.raises(ValueError, match=r"conv2d: padding is .* but takes an integer"):
        Geometry.conv((1, 8, 8, 3), (3, 3, 3, 4), padding=padding)
