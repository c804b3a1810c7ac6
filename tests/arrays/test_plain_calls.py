"""What holds for every function of `gpunet.arrays`: layouts, kinds, `out`, strides, dtypes, errors."""

import inspect

import numpy as np
import pytest
from helpers.plain_arrays import CASES, turned
from helpers.values import relative_error

import gpunet as gp
from gpunet import arrays as A
from gpunet.arrays import call as call_module

IMAGE = np.ones((2, 5, 4, 3))
FILTERS = np.ones((3, 3, 3, 2))


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def expected(case):
    """The results of the plain backend's twin on NumPy in float64, NHWC."""
    return [a.copy() for a in case.call(case.arrays(np.float64))]


def close(kind, actual, wanted):
    actual = kind.host(actual)
    assert actual.dtype.kind in "iu" or actual.dtype == kind.dtype
    tolerance = 1e-12 if actual.dtype == np.float64 else 2e-5
    assert relative_error(actual, wanted) <= tolerance


def inputs(case, kind, layout, strides="made"):
    return [
        kind.made(turned(a, k, layout), strides=strides)
        for a, k in zip(case.arrays(kind.dtype), case.kinds, strict=True)
    ]


@pytest.mark.parametrize("strides", ["made", "kept"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_a_layout_or_strides_change_nothing_but_the_order_of_the_axes(kind, case, layout, strides):
    if layout not in case.layouts:
        pytest.skip("no images")
    for one, wanted, k in zip(
        case.call(inputs(case, kind, layout, strides), layout), expected(case), case.results, strict=True
    ):
        assert kind.backend.owns(one)
        assert one.flags.c_contiguous
        close(kind, one, turned(wanted, k, layout))


def test_inputs_that_are_parts_of_larger_arrays_are_taken(kind, case):
    parts = []
    for a in case.arrays(kind.dtype):
        large = np.repeat(a, 2, axis=-1)
        parts.append(kind.made(large, strides="made")[..., ::2])
        assert not parts[-1].flags.c_contiguous or parts[-1].size < 2
    if case.name == "batch_norm" and case.options["training"]:
        with pytest.raises(ValueError, match="batch_norm: running_mean must be C-contiguous to be changed"):
            case.call(parts)
        return
    for one, wanted in zip(case.call(parts), expected(case), strict=True):
        close(kind, one, wanted)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_results_are_written_to_out(kind, case, layout):
    if layout not in case.layouts:
        pytest.skip("no images")
    wanted = expected(case)
    made = [turned(np.zeros_like(w, dtype=w.dtype if w.dtype.kind in "iu" else kind.dtype), k, layout)
            for w, k in zip(wanted, case.results, strict=True)]  # fmt: skip
    count = 1 if case.name == "batch_norm" else len(made)  # its moments have no out
    outs = [kind.made(np.repeat(a[..., None], 2, axis=-1), strides="made")[..., 0] if a.ndim else kind.made(a)
            for a in made[:count]]  # fmt: skip
    results = case.call(inputs(case, kind, layout), layout, out=outs[0] if count == 1 else tuple(outs))
    for one, out, w, k in zip(results, outs, wanted, case.results, strict=False):
        assert one is out
        close(kind, out, turned(w, k, layout))
    if count > 1:  # either may be left out
        results = case.call(inputs(case, kind, layout), layout, out=(None, *outs[1:]))
        assert results[0] is not outs[0]
        assert results[1] is outs[1]


SAME_SHAPE = {
    "conv2d": lambda x, out: A.conv2d(x, FILTERS_OF[x.shape[-1]](x), padding=1, out=out),
    "NCHW": lambda x, out: A.conv2d(x, FILTERS_OF[x.shape[1]](x, "NCHW"), padding=1, layout="NCHW", out=out),
    "max_pool2d": lambda x, out: A.max_pool2d(x, 3, stride=1, padding=1, out=out),
    "avg_pool2d": lambda x, out: A.avg_pool2d(x, 3, stride=1, padding=1, out=out),
    "upsample2d": lambda x, out: A.upsample2d(x, 1, out=out),
    "matmul": lambda x, out: A.matmul(x.reshape(16, 16), x.reshape(16, 16), out=None if out is None else out.reshape(16, 16)),
}  # fmt: skip


def _filters(x, layout="NHWC"):
    made = np.random.default_rng(1).normal(size=(3, 3, 4, 4)).astype(x.dtype)
    made = made.transpose(3, 2, 0, 1) if layout == "NCHW" else made
    return gp.get_backend("numpy" if isinstance(x, np.ndarray) else "cuda").asarray(made)


FILTERS_OF = {4: _filters}


@pytest.mark.parametrize("name", SAME_SHAPE)
def test_out_may_be_the_input(kind, rng, name):
    f, x = SAME_SHAPE[name], rng.normal(size=(4, 4, 4, 4)).astype(kind.dtype)
    wanted = kind.host(f(kind.made(x.copy()), None)).copy()
    given = kind.made(x.copy())
    f(given, given)
    assert np.array_equal(kind.host(given).reshape(wanted.shape), wanted)


def test_a_dtype_is_kept_and_others_raise(case):
    wide = case.arrays(np.float64)
    for dtype in (np.float32, np.float64):
        assert all(r.dtype == dtype or r.dtype.kind in "iu" for r in case.call(case.arrays(dtype)))
    for dtype in (np.int64, np.float16, np.complex64, ">f4", bool):
        arrays = [a if case.labels and i == 1 else a.astype(dtype) for i, a in enumerate(wide)]
        with pytest.raises(
            TypeError, match=f"^{case.name}: .* is .*, which is not computed on numpy, which takes float32, fl"
        ):
            case.call(arrays)
    floats = [i for i, a in enumerate(wide) if a.dtype.kind == "f"]
    for i in floats[1:]:
        mixed = [a.astype(np.float32) if i == j else a for j, a in enumerate(wide)]
        with pytest.raises(TypeError, match=f"^{case.name}: .* is float32 but .*float64"):
            case.call(mixed)


def test_only_plain_arrays_are_taken(case):
    good = case.arrays(np.float64)
    kinds = {"list": good[0].tolist(), "gpunet.*Tensor": gp.tensor(good[0]), "numpy.*MaskedArray": np.ma.array(good[0])}
    for kind, wrong in kinds.items():
        with pytest.raises(TypeError, match=f"^{case.name}: .* takes numpy.ndarray or cupy.ndarray, got {kind}$"):
            case.call([wrong, *good[1:]])
        for i in range(1, len(good)):
            with pytest.raises(TypeError, match=f"^{case.name}: .* but .* is an array of numpy$"):
                case.call([*good[:i], wrong, *good[i + 1 :]])
    assert all(type(a) is np.ndarray for a in case.call(good))


def test_memory_maps_are_taken_and_matrices_refused(tmp_path):
    mapped = np.memmap(tmp_path / "images", np.float32, "w+", shape=(1, 4, 4, 1))
    mapped[...] = 1
    y = A.conv2d(mapped, np.ones((2, 2, 1, 1), np.float32))
    assert y.tolist() == [[[[4.0]] * 3] * 3]
    with np.errstate(all="ignore"):
        matrix = np.ones((2, 2)).view(np.matrix)
    for a, b in ((matrix, np.ones((2, 2))), (np.ones((2, 2)), matrix)):
        with pytest.raises(TypeError, match="^matmul: . .*matrix"):
            A.matmul(a, b)


def test_the_short_way_of_a_convolution_gives_what_the_long_one_does(rng):
    x, w, b = rng.normal(size=(2, 6, 5, 3)), rng.normal(size=(3, 2, 3, 4)), rng.normal(size=4)
    for bias in (None, b):
        short = A.conv2d(x, w, bias, padding=1)
        assert np.array_equal(short, A.conv2d(x, w, bias, padding=1, out=np.empty_like(short)))
        assert np.array_equal(short, A.conv2d(x.astype(x.dtype.newbyteorder()).astype(x.dtype), w, bias, padding=1))
    with pytest.raises(ValueError, match=r"conv2d: bias has shape \(3,\) but takes \(4,\)"):
        A.conv2d(x, w, b[:3])
    with pytest.raises(TypeError, match="conv2d: x is int64, which is not computed on numpy"):
        A.conv2d(x.astype(int), w.astype(int))


def test_an_out_that_does_not_fit_raises_before_anything_is_changed(case):
    arrays, results = case.arrays(np.float64), expected(case)
    before = [a.copy() for a in arrays]
    count = 1 if case.name == "batch_norm" else len(results)

    def as_out(first):
        return first if count == 1 else (first, *[None] * (count - 1))

    locked = results[0].copy()
    locked.flags.writeable = False
    wrong = results[0].astype(np.float32)
    for out, error, said in (
        (np.zeros((9, 9)), ValueError, r"has shape \(9, 9\) but takes"),
        (wrong, TypeError, "is float32 but the result"),
        (locked, ValueError, "is read-only"),
        ([1.0], TypeError, "is list but"),
    ):
        with pytest.raises(error, match=f"^{case.name}: out.*{said}"):
            case.call(arrays, out=as_out(out))
    if count > 1:
        with pytest.raises(TypeError, match=f"^{case.name}: out takes {count} arrays"):
            case.call(arrays, out=results[0])
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))


def test_a_layout_that_is_none_raises(case):
    if len(case.layouts) == 1:
        pytest.skip("no images")
    with pytest.raises(ValueError, match=f"^{case.name}: layout is 'HWC' but takes NHWC or NCHW"):
        case.call(case.arrays(np.float64), "HWC")


SHAPES = {
    "conv2d: x has shape (2, 5, 4) but takes 4 axes (N, H, W, C)": lambda: A.conv2d(IMAGE[..., 0], FILTERS),
    "conv2d: weight has shape (3, 3, 3) but takes 4 axes (O, I, KH, KW)": lambda: A.conv2d(
        IMAGE, FILTERS[..., 0], layout="NCHW"
    ),
    "conv2d: x has 3 channels but weight expects 2 (x (2, 5, 4, 3), weight (3, 3, 2, 2))": lambda: A.conv2d(
        IMAGE, FILTERS[:, :, :2]
    ),
    "(x (2, 4, 3, 5), weight (3, 2, 3, 3)); shapes are written as for NHWC": lambda: A.conv2d(
        IMAGE, FILTERS, layout="NCHW"
    ),
    "conv2d: bias has shape (3,) but takes (2,)": lambda: A.conv2d(IMAGE, FILTERS, np.ones(3)),
    "conv2d: stride must be at least 1, got 0": lambda: A.conv2d(IMAGE, FILTERS, stride=0),
    "conv2d_input_grad: dy has shape (2, 5, 4, 2) but takes (2, 3, 2, 2)": lambda: A.conv2d_input_grad(
        IMAGE[..., :2], FILTERS, (2, 5, 4, 3)
    ),
    "conv2d_weight_grad: dy has shape (2, 5, 4, 3) but takes (2, 3, 2, 3)": lambda: A.conv2d_weight_grad(IMAGE, IMAGE, 3),
    "conv2d_weight_grad: groups=2 must divide": lambda: A.conv2d_weight_grad(IMAGE, IMAGE, 3, groups=2),
    "depthwise_conv2d: groups=3 must divide": lambda: A.depthwise_conv2d(IMAGE, np.ones((3, 3, 1, 4))),
    "conv_transpose2d: weight is (3, 3, 3, 2) but x (2, 5, 4, 3) takes": lambda: A.conv_transpose2d(IMAGE, FILTERS),
    "max_pool2d: a window of 6 pixels is larger than the padded height": lambda: A.max_pool2d(IMAGE, 6),
    "max_unpool2d: mask has shape (2, 5, 4, 3) but takes (2, 2, 2, 3)": lambda: A.max_unpool2d(
        np.ones((2, 2, 2, 3)), IMAGE.astype(np.uint8), (2, 5, 4, 3), 2
    ),
    "avg_pool2d_grad: dy has shape (2, 5, 4, 3) but takes (2, 2, 2, 3)": lambda: A.avg_pool2d_grad(
        IMAGE, (2, 5, 4, 3), 2
    ),
    "batch_norm: running_mean has shape (4,) but x (2, 5, 4, 3) takes (3,)": lambda: A.batch_norm(
        IMAGE, np.ones(4), np.ones(3), training=False
    ),
    "batch_norm: train on at least 2 elements per channel": lambda: A.batch_norm(
        IMAGE[:1, :1, :1], np.ones(3), np.ones(3), training=True
    ),
    "batch_norm: momentum is 2 but must be": lambda: A.batch_norm(IMAGE, np.ones(3), np.ones(3), training=True, momentum=2),
    "upsample2d: takes exactly one of scale_factor and size": lambda: A.upsample2d(IMAGE),
    "upsample2d_grad: dy has shape (2, 5, 4, 3) but takes (2, 10, 8, 3)": lambda: A.upsample2d_grad(IMAGE, IMAGE.shape, 2),
    "softmax_cross_entropy: labels must be from 0 to 2, got 3 at (1,)": lambda: A.softmax_cross_entropy(
        np.ones((2, 3)), np.array([0, 3])
    ),
    "softmax_cross_entropy: reduction is 'max'": lambda: A.softmax_cross_entropy(
        np.ones((2, 3)), np.array([0, 1]), reduction="max"
    ),
    "softmax_cross_entropy: logits (0, 3) hold no rows": lambda: A.softmax_cross_entropy(
        np.ones((0, 3)), np.zeros(0, int), reduction="sum"
    ),
    "matmul: a (2, 3) and b (2, 3) meet in axes of 3 and 2": lambda: A.matmul(np.ones((2, 3)), np.ones((2, 3))),
    "matmul: takes (M, K) and (K, P), or B of each": lambda: A.matmul(np.ones(3), np.ones(3)),
}  # fmt: skip


@pytest.mark.parametrize("said", SHAPES)
def test_shapes_that_do_not_fit_are_named_in_one_line(said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        SHAPES[said]()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_running_moments_that_cannot_be_changed_raise():
    locked = np.ones(3)
    locked.flags.writeable = False
    with pytest.raises(ValueError, match="batch_norm: running_var is memory that may only be read"):
        A.batch_norm(IMAGE, np.zeros(3), locked, training=True)
    A.batch_norm(IMAGE, np.zeros(3), locked, training=False)


def test_a_shape_that_is_no_shape_raises():
    for wrong in (5, (2, 5.0, 4, 3), "2543"):
        with pytest.raises(TypeError, match="avg_pool2d_grad: x_shape takes a tuple of 4 integers, got"):
            A.avg_pool2d_grad(np.ones((2, 2, 2, 3)), wrong, 2)


# ---- the cache of geometries


def test_a_geometry_is_checked_once(monkeypatch):
    calls = []
    real = call_module.Geometry.conv
    monkeypatch.setattr(call_module.Geometry, "conv", lambda *a, **k: calls.append(a) or real(*a, **k))
    for _ in range(3):
        for stride in (1, (1, 2), [2, 1], np.int64(1)):
            A.conv2d(np.ones((1, 11, 12, 1)), np.ones((2, 3, 1, 1)), stride=stride)
    assert len(calls) == 3 + 3  # NumPy's integers have the bytes of other numbers


def test_the_cache_takes_no_number_for_another():
    x, w = np.ones((1, 9, 13, 1)), np.ones((2, 3, 1, 1))
    A.conv2d(x, w, stride=1, padding=(1, 1))
    for options in ({"stride": 1.0}, {"stride": (1, 1.0)}, {"groups": 1.0}, {"dilation": "1"}):
        with pytest.raises(TypeError, match="must be an integer"):
            A.conv2d(x, w, **options)
    for padding in (1.0, (1, 1.0), ((1, 1), (1, 1.0))):
        with pytest.raises(ValueError, match="padding is"):
            A.conv2d(x, w, padding=padding)
    A.conv2d(x, w, padding=np.int64(0))
    with pytest.raises(ValueError, match="padding is"):
        A.conv2d(x, w, padding=np.float64(0))
    A.max_pool2d(x, 2, ceil_mode=True)
    with pytest.raises(TypeError, match="ceil_mode must be True or False, got 1"):
        A.max_pool2d(x, 2, ceil_mode=1)


def test_the_cache_is_bounded(monkeypatch):
    monkeypatch.setattr(call_module, "MOST_KEPT", 2)
    for n in range(4, 9):
        assert A.max_pool2d(np.ones((1, n, n, 1)), 2).shape == (1, n // 2, n // 2, 1)


# ---- the module


def test_the_module_is_there_with_the_package():
    assert gp.arrays is A
    assert sorted({case.name for case in CASES.values()}) == sorted(A.__all__)


def test_every_function_takes_out_and_images_a_layout():
    for name in A.__all__:
        parameters = inspect.signature(getattr(A, name)).parameters
        assert parameters["out"].default is None
        assert "layout" not in parameters or parameters["layout"].default == "NHWC"
