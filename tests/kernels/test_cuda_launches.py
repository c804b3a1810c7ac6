"""Which kernel each primitive launches. Nothing is computed, so these tests run everywhere."""

from types import SimpleNamespace

import numpy as np
import pytest
from recording import recording_backend

from gpunet.augmentation import Augmentation
from gpunet.backends.contract.activation import Activation, InputActivation
from gpunet.backends.contract.augment import BatchRequest, Samples
from gpunet.backends.contract.backend import Backend
from gpunet.backends.contract.conv import Conv
from gpunet.backends.contract.gradients import Gate, Into
from gpunet.backends.contract.linear import LinearGrad
from gpunet.backends.contract.loss import CrossEntropy
from gpunet.backends.contract.matmul import Product
from gpunet.backends.contract.norm import BatchNorm, GroupNorm, Moments
from gpunet.backends.contract.update import Segments
from gpunet.geometry import Geometry
from gpunet.random import Stream
from gpunet.resampling import linear, padded

CONV = Geometry.conv((2, 8, 8, 4), (3, 3, 4, 20))
POOL = Geometry.pool((2, 8, 8, 4), 2)
LOCAL = Geometry.conv((2, 8, 8, 4), (7, 7, 4, 3))
RELU, GELU, STREAM = Activation("relu"), InputActivation("gelu"), Stream(0, 1)
TRAINING = BatchNorm(training=True)
NORMALIZE = Augmentation(mean=(0.5,), std=(0.5,))


def ones(on, *shape, dtype=np.float32):
    return on.arrays.asarray(np.ones(shape, dtype))


def arena(on, *slots):
    flat = {"data": ones(on, 64), "grad": ones(on, 64), "slots": {name: ones(on, 64) for name in slots}}
    return SimpleNamespace(**flat, shadow=None, scaling=None)


def segments(columns):
    return Segments(np.array([[0, 10], [32, 64]], np.int64), np.ones((2, columns)))


def conv_x(on):
    return ones(on, 2, 8, 8, 4)


def channels(on, count):
    return [ones(on, 4) for _ in range(count)]


def conv_dy(on):
    return ones(on, 2, 6, 6, 20)


def conv_w(on):
    return ones(on, 3, 3, 4, 20)


def dense_grad(on, rows, outputs):
    return LinearGrad(ones(on, rows, outputs), ones(on, rows, 5))


PRIMITIVES = {
    "full": (lambda on: on.full((3,), 0.5, np.float32), ["fill<float>"]),
    "copy": (lambda on: on.copy(ones(on, 3)), ["strided_copy<float>"]),
    "unary": (lambda on: on.unary("exp", ones(on, 3)), ["unary<float>"]),
    "binary": (lambda on: on.binary("add", ones(on, 2, 3), ones(on, 3)), ["binary<float>"]),
    "compare": (lambda on: on.compare("less", ones(on, 2, 3), ones(on, 3)), ["compare<float>"]),
    "select": (lambda on: on.select(ones(on, 3, dtype=bool), ones(on, 3), None), ["select<float>"]),
    "broadcast": (lambda on: on.broadcast(ones(on, 3), (2, 3)), ["strided_copy<float>"]),
    "cast": (lambda on: on.cast(ones(on, 3), "bfloat16"), ["cast<float, bfloat16>"]),
    "scale": (lambda on: on.scale(ones(on, 3), ones(on, 1), 0.5), ["scale<float>"]),
    "sum": (lambda on: on.sum(ones(on, 2, 3), (1,)), ["reduce_sum_rows<float>"]),
    "max": (lambda on: on.max(ones(on, 2, 3), (1,)), ["reduce_max_rows<float>"]),
    "max_backward": (
        lambda on: on.max_backward(ones(on, 2), ones(on, 2, dtype=np.int32), shape=(2, 3), axes=(1,)),
        ["max_backward<float>"],
    ),
    "transpose": (lambda on: on.transpose(ones(on, 2, 3), (1, 0)), ["strided_copy<float>"]),
    "concatenate": (lambda on: on.concatenate([ones(on, 2), ones(on, 3)], 0), ["strided_copy<float>"] * 2),
    "get_slice": (lambda on: on.get_slice(ones(on, 4), (slice(1, 3),)), ["strided_copy<float>"]),
    "put_slice": (
        lambda on: on.put_slice(ones(on, 2), (slice(1, 3),), shape=(4,)),
        ["fill<float>", "strided_copy<float>"],
    ),
    "take": (lambda on: on.take(ones(on, 4, 2), ones(on, 3, dtype=np.int64)), ["take<float>"]),
    "take_backward": (
        lambda on: on.take_backward(ones(on, 65, 2), ones(on, 65, dtype=np.int64), ones(on, 5, dtype=np.int64)),
        ["take_backward_parts<float>", "take_backward_merge<float>"],
    ),
    "conv2d_forward": (
        lambda on: on.conv2d_forward(conv_x(on), conv_w(on), ones(on, 20), Conv(CONV, RELU)),
        ["conv2d_forward_tiled<float, 128, 16, 4, 2, 1, 1, false, false>"],
    ),
    "conv2d_input_grad": (
        lambda on: on.conv2d_input_grad(conv_dy(on), conv_w(on), Conv(CONV), Gate(conv_dy(on), RELU)),
        ["conv2d_input_grad_tiled<float, 128, 16, 4, 2, 4, 1>"],
    ),
    "conv2d_weight_grad": (
        lambda on: on.conv2d_weight_grad(conv_dy(on), conv_x(on), Conv(CONV)),
        ["conv2d_weight_grad_tiled<float, 32, 32, 2, 2, 1, 4, 0>"],
    ),
    "matmul": (
        lambda on: on.matmul(ones(on, 8, 12), ones(on, 20, 12), Product(transpose_b=True, bias=ones(on, 20))),
        ["matmul_tiled<float, 128, 16, 4, 2, 1, 0, false, true>"],
    ),
    "batched_matmul": (
        lambda on: on.batched_matmul(ones(on, 2, 8, 12), ones(on, 2, 20, 12), transpose_b=True),
        ["matmul_tiled<float, 128, 16, 4, 2, 1, 0, false, true>"] * 2,
    ),
    "linear_forward": (
        lambda on: on.linear_forward(ones(on, 17, 5), ones(on, 5, 32), ones(on, 32)),
        ["linear_cross_entropy<float>"],
    ),
    "linear_cross_entropy": (
        lambda on: on.linear_cross_entropy(ones(on, 17, 5), ones(on, 5, 3), None, ones(on, 17, dtype=np.int32)),
        ["linear_cross_entropy<float>"],
    ),
    "linear_weight_grads": (
        lambda on: on.linear_weight_grads([dense_grad(on, 4, 8), dense_grad(on, 9, 3), dense_grad(on, 1025, 20)]),
        ["conv2d_weight_grad_tiled<float, 64, 16, 2, 2, 1, 1, 0>", "linear_weight_grads_tiled<float>"],
    ),
    "max_pool2d_forward": (
        lambda on: on.max_pool2d_forward(conv_x(on), POOL),
        ["max_pool2d_forward<float, uint8, 4>"],
    ),
    "max_pool2d_backward": (
        lambda on: on.max_pool2d_backward(ones(on, 2, 4, 4, 4), ones(on, 2, 4, 4, 4, dtype=np.uint8), POOL),
        ["max_pool2d_backward<float, uint8, 4>"],
    ),
    "avg_pool2d_forward": (
        lambda on: on.avg_pool2d_forward(conv_x(on), POOL, True),
        ["avg_pool2d_forward<float, 4>"],
    ),
    "avg_pool2d_backward": (
        lambda on: on.avg_pool2d_backward(ones(on, 2, 4, 4, 4), POOL, True),
        ["avg_pool2d_backward<float, 4>"],
    ),
    "resample2d": (
        lambda on: on.resample2d(conv_x(on), linear(8, 16), padded(8, 1, 2, "reflect")),
        ["resample2d<float, 4>"],
    ),
    "local_conv2d_forward": (
        lambda on: on.local_conv2d_forward(conv_x(on), ones(on, 2, 2, 7, 7, 4, 3), ones(on, 2, 2, 3), LOCAL),
        ["local_conv2d_forward<float, 4>"],
    ),
    "local_conv2d_input_grad": (
        lambda on: on.local_conv2d_input_grad(ones(on, 2, 2, 2, 3), ones(on, 2, 2, 7, 7, 4, 3), LOCAL),
        ["local_conv2d_input_grad<float, 1>"],
    ),
    "local_conv2d_weight_grad": (
        lambda on: on.local_conv2d_weight_grad(ones(on, 2, 2, 2, 3), conv_x(on), LOCAL),
        ["local_conv2d_weight_grad<float, 4>"],
    ),
    "batch_norm_forward": (
        lambda on: on.batch_norm_forward(conv_x(on), *channels(on, 2), Moments(*channels(on, 2)), TRAINING, None),
        ["batch_norm_moments<float, 4>", "batch_norm_moments_merge", "batch_norm_forward<float, 4>"],
    ),
    "batch_norm_backward": (
        lambda on: on.batch_norm_backward(
            conv_x(on), conv_x(on), None, ones(on, 4), None, Moments(*channels(on, 2)), TRAINING
        ),
        ["batch_norm_sums<float, 4>", "batch_norm_sums_merge", "batch_norm_input_grad<float, 4>"],
    ),
    "group_norm_forward": (
        lambda on: on.group_norm_forward(conv_x(on), ones(on, 4), None, GroupNorm(1)),
        ["group_norm_forward<float, 4>"],
    ),
    "group_norm_backward": (
        lambda on: on.group_norm_backward(
            conv_x(on), conv_x(on), ones(on, 4), Moments(ones(on, 2, 2), ones(on, 2, 2)), GroupNorm(2)
        ),
        ["group_norm_input_grad<float, 1>", "group_norm_weight_grad<float, 1>", "group_norm_weight_grad_merge"],
    ),
    "activation_forward": (lambda on: on.activation_forward(ones(on, 3), RELU), ["activation_forward<float>"]),
    "activation_backward": (
        lambda on: on.activation_backward(ones(on, 3), ones(on, 3), RELU),
        ["activation_backward<float>"],
    ),
    "input_activation_forward": (
        lambda on: on.input_activation_forward(ones(on, 3), GELU),
        ["input_activation_forward<float>"],
    ),
    "input_activation_backward": (
        lambda on: on.input_activation_backward(ones(on, 3), ones(on, 3), GELU),
        ["input_activation_backward<float>"],
    ),
    "softmax_forward": (lambda on: on.softmax_forward(ones(on, 2, 3)), ["softmax_forward<float, 32>"]),
    "softmax_backward": (
        lambda on: on.softmax_backward(ones(on, 2, 3), ones(on, 2, 3)),
        ["softmax_backward<float, 32>"],
    ),
    "softmax_cross_entropy": (
        lambda on: on.softmax_cross_entropy(ones(on, 2049, 3), ones(on, 2049, dtype=np.int32)),
        ["softmax_cross_entropy_total", "softmax_cross_entropy_rows<float, 32>", "softmax_cross_entropy_mean"],
    ),
    "label_weight": (
        lambda on: on.label_weight(ones(on, 9, dtype=np.int32), 3, CrossEntropy(ones(on, 3))),
        ["softmax_cross_entropy_total", "reduce_sum_rows<float>"],
    ),
    "sigmoid_cross_entropy": (
        lambda on: on.sigmoid_cross_entropy(ones(on, 3), ones(on, 3)),
        ["sigmoid_cross_entropy<float>", "sigmoid_cross_entropy_mean"],
    ),
    "random_words": (lambda on: on.random_words(STREAM, 9), ["random_words"]),
    "random_normal": (lambda on: on.random_normal(STREAM, (9,), np.float32), ["random_normal<1>"]),
    "dropout_forward": (lambda on: on.dropout_forward(ones(on, 9), 0.5, stream=STREAM), ["dropout<float, 1>"]),
    "dropout_backward": (lambda on: on.dropout_backward(ones(on, 9), 0.5, stream=STREAM), ["dropout<float, 1>"]),
    "permutation": (
        lambda on: on.permutation(STREAM, 9),
        ["random_words", "fill<int>", *(f"permutation_{step}" for step in ("count", "offsets", "scatter", "rank"))],
    ),
    "gather_augment": (
        lambda on: on.gather_augment(
            Samples(
                ones(on, 4, 8, 8, 3, dtype=np.uint8),
                ones(on, 4, dtype=np.int32),
                ones(on, 4, dtype=np.int32),
                NORMALIZE,
            ),
            BatchRequest(seed=0),
        ),
        ["gather_augment<float>"],
    ),
    "gradient_norm": (
        lambda on: on.gradient_norm(arena(on), segments(4), max_norm=1.0),
        ["gradient_norm"],
    ),
    "update": (lambda on: on.update("sgd", arena(on, "momentum"), segments(6)), ["update<float, Sgd>"]),
    "clip_units": (lambda on: on.clip_units(ones(on, 3, 2), 1.0, shadow=None), ["clip_units<float>"]),
    "average_update": (lambda on: on.average_update(ones(on, 3), ones(on, 3), 0.9), ["average_update"]),
}
SIMPLE = {
    "conv2d_forward": ["conv2d_forward_simple<float, false>"],
    "conv2d_input_grad": ["conv2d_input_grad_simple<float>"],
    "conv2d_weight_grad": ["conv2d_weight_grad_simple<float>"],
    "linear_forward": ["matmul_simple<float>"],
    "linear_cross_entropy": ["matmul_simple<float>", "softmax_cross_entropy_simple<float>", "matmul_simple<float>"],
    "linear_weight_grads": ["linear_weight_grads_simple<float>"] * 3,
    "matmul": ["matmul_simple<float>"],
    "avg_pool2d_forward": ["avg_pool2d_forward<float, 1>"],
    "avg_pool2d_backward": ["avg_pool2d_backward<float, 1>"],
    "max_pool2d_forward": ["max_pool2d_forward<float, uint8, 1>"],
    "max_pool2d_backward": ["max_pool2d_backward<float, uint8, 1>"],
    "resample2d": ["resample2d<float, 1>"],
    "local_conv2d_forward": ["local_conv2d_forward<float, 1>"],
    "local_conv2d_weight_grad": ["local_conv2d_weight_grad<float, 1>"],
    "batch_norm_forward": ["batch_norm_moments_simple<float>", "batch_norm_forward_simple<float>"],
    "batch_norm_backward": ["batch_norm_sums_simple<float>", "batch_norm_input_grad_simple<float>"],
    "group_norm_forward": ["group_norm_forward_simple<float>"],
    "group_norm_backward": ["group_norm_input_grad_simple<float>", "group_norm_weight_grad_simple<float>"],
    "softmax_cross_entropy": ["softmax_cross_entropy_simple<float>"],
    "sum": ["reduce_sum_simple<float>"],
    "take_backward": ["take_backward_simple<float>"],
    "max": ["reduce_max_simple<float>"],
}
NOT_KERNELS = {"owns", "asarray", "to_numpy", "empty", "synchronize", "describe"}


def test_every_primitive_is_in_the_table():
    listed, abstract = set(PRIMITIVES) | NOT_KERNELS, set(Backend.__abstractmethods__)
    assert abstract - listed == set(), "add these to PRIMITIVES"
    assert listed - abstract == set(), "these are no longer primitives"


@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_every_primitive_launches_the_kernel_it_should(primitive):
    call, expected = PRIMITIVES[primitive]
    backend = recording_backend()
    call(backend)
    assert backend.launcher.kernels == expected


@pytest.mark.parametrize("primitive", SIMPLE)
def test_the_simple_variant_is_launched_on_request(primitive):
    backend = recording_backend(simple=True)
    PRIMITIVES[primitive][0](backend)
    assert backend.launcher.kernels == SIMPLE[primitive]


def test_images_that_are_not_aligned_take_the_variant_for_any_alignment():
    backend = recording_backend().twin(tile=(64, 64))
    batch, w = ones(backend, 3, 27, 27, 4), ones(backend, 2, 2, 4, 32)
    geometry = Geometry.conv((3, 27, 27, 4), w.shape)
    backend.conv2d_forward(batch, w, None, Conv(geometry))
    flat = ones(backend, 1 + batch.size)
    backend.conv2d_forward(flat[1:].reshape(batch.shape), w, None, Conv(geometry))
    assert [kernel.split(", ")[5:7] for kernel in backend.launcher.kernels] == [["4", "4"], ["1", "1"]]
    gray = ones(backend, 3, 27, 27, 1)[1:]  # 2916 bytes in; a single channel is never loaded by four
    w = ones(backend, 3, 3, 1, 32)
    backend.conv2d_forward(gray, w, None, Conv(Geometry.conv(gray.shape, w.shape)))
    assert backend.launcher.kernels[-1] == "conv2d_depthwise_forward<float, 3, 1, 4, 1>"


@pytest.mark.parametrize("argument", ["dy", "gate", "x"])
def test_one_unaligned_array_is_enough_for_any_alignment(argument):
    backend = recording_backend().twin(tile=(64, 64))
    arrays = {"dy": conv_dy(backend), "gate": conv_dy(backend), "x": conv_x(backend)}
    whole = arrays[argument]
    arrays[argument] = ones(backend, whole.size + 1)[1:].reshape(whole.shape)
    backend.conv2d_weight_grad(arrays["dy"], arrays["x"], Conv(CONV), Gate(arrays["gate"], RELU))
    assert backend.launcher.kernels[0] == "conv2d_weight_grad_tiled<float, 64, 64, 4, 4, 1, 1, 1>"


@pytest.mark.parametrize("shift", [0, 1])
def test_pooling_and_products_look_at_alignment(shift):
    backend = recording_backend().twin(tile=(64, 64))
    flat = ones(backend, shift + 512)[shift:]
    backend.max_pool2d_forward(flat.reshape(2, 8, 8, 4), POOL)
    backend.matmul(flat[:96].reshape(8, 12), ones(backend, 12, 20))
    vector = 1 if shift else 4
    assert backend.launcher.kernels == [
        f"max_pool2d_forward<float, uint8, {vector}>",
        f"matmul_tiled<float, 64, 64, 4, 4, {vector}, 0, false, false>",
    ]


def test_inference_normalises_in_one_launch():
    backend = recording_backend()
    running = Moments(*channels(backend, 2))
    _, saved = backend.batch_norm_forward(
        conv_x(backend), *channels(backend, 2), running, BatchNorm(training=False), None
    )
    assert backend.launcher.kernels == ["batch_norm_forward<float, 4>"]
    assert saved == running


def test_one_unaligned_array_is_enough_for_batch_norm_of_any_alignment():
    backend = recording_backend()
    weight, (bias, *running) = ones(backend, 5)[1:], channels(backend, 3)
    running = Moments(*running)
    backend.batch_norm_forward(conv_x(backend), weight, bias, running, TRAINING, None)
    assert backend.launcher.kernels[0] == "batch_norm_moments<float, 4>"
    assert backend.launcher.kernels[-1] == "batch_norm_forward<float, 1>"
    with pytest.raises(ValueError, match=r"weight has shape \(5,\) but takes \(4,\)"):
        backend.batch_norm_forward(conv_x(backend), ones(backend, 5), bias, running, TRAINING, None)
    with pytest.raises(ValueError, match="at least 2 elements per channel"):
        backend.batch_norm_forward(ones(backend, 1, 4), bias, bias, running, TRAINING, None)


def test_a_long_sum_is_split_and_added_again():
    backend = recording_backend()
    y = backend.sum(ones(backend, 100_000, 8), (0,))
    assert y.shape == (8,)
    assert backend.launcher.kernels == ["reduce_sum_simple<float>"] * 3
    assert [args[1].shape for _, _, args in backend.launcher.launches[:1]] == [(1, 1563, 8)]


@pytest.mark.parametrize(("rows", "classes"), [(2048, 10), (1, 64)])
def test_the_cross_entropy_of_a_small_batch_is_one_launch(rows, classes):
    backend = recording_backend()
    labels = ones(backend, rows, dtype=np.int32)
    backend.softmax_cross_entropy(ones(backend, rows, classes), labels)
    backend.softmax_cross_entropy(ones(backend, 2048, 11), ones(backend, 2048, dtype=np.int32))
    total, *_ = rest = backend.launcher.kernels[1:]
    assert backend.launcher.kernels[0] == "softmax_cross_entropy_simple<float>"
    assert (total, len(rest)) == ("softmax_cross_entropy_total", 3)


def test_tables_on_the_device_are_taken_as_they_are():
    backend = recording_backend()
    flat, (bounds, hyper, _) = arena(backend, "momentum"), segments(6)
    placed = backend.asarray(bounds), backend.asarray(hyper)
    backend.update("sgd", flat, Segments(bounds, placed[1], placed[0]))
    backend.gradient_norm(flat, Segments(bounds, placed[1], placed[0]), max_norm=1.0)
    assert not backend._on_stream().tables
    update, norm = (args for _, _, args in backend.launcher.launches[:2])
    assert [update[5] is placed[0], update[6] is placed[1], norm[1] is placed[0]] == [True] * 3


def test_tables_are_sent_once():
    backend = recording_backend()
    flat = arena(backend, "momentum")
    for _ in range(2):
        backend.update("sgd", flat, segments(6))
    first, second = (args for _, _, args in backend.launcher.launches)
    assert first[5] is second[5]
    assert first[6] is second[6]


def test_shapes_that_do_not_fit_are_refused_before_a_launch():
    backend = recording_backend()
    with pytest.raises(ValueError, match=r"conv2d_forward: w has shape \(3, 3, 4, 21\) but takes \(3, 3, 4, 20\)"):
        backend.conv2d_forward(conv_x(backend), ones(backend, 3, 3, 4, 21), None, Conv(CONV))
    with pytest.raises(TypeError, match="labels must be C-contiguous int32, got int64"):
        backend.softmax_cross_entropy(ones(backend, 2, 3), ones(backend, 2, dtype=np.int64))
    with pytest.raises(ValueError, match=r"conv2d_weight_grad: weight has shape \(20,\) but takes \(3, 3, 4, 20\)"):
        backend.conv2d_weight_grad(conv_dy(backend), conv_x(backend), Conv(CONV), into=Into(ones(backend, 20)))
    assert backend.launcher.kernels == []


@pytest.mark.parametrize(
    ("multiplier", "groups", "kernel"), [(1, 8, "{}depthwise_{}"), (3, 8, "{}depthwise_{}"), (8, 2, "{}{}_tiled")]
)
def test_a_depthwise_convolution_takes_its_own_kernels(multiplier, groups, kernel):
    backend, g = recording_backend(), Geometry.conv((2, 7, 6, 8), (3, 3, 8 // groups, 8 * multiplier), groups=groups)
    x, w, dy = (ones(backend, *shape) for shape in (g.x_shape, g.w_shape, g.y_shape))
    backend.conv2d_forward(x, w, None, Conv(g))
    backend.conv2d_input_grad(dy, w, Conv(g))
    backend.conv2d_weight_grad(dy, x, Conv(g))
    names = [kernel.format("conv2d_", name) for name in ("forward", "input_grad", "weight_grad")]
    assert [k.split("<")[0] for k in backend.launcher.kernels] == names


def test_pixels_that_are_not_normalised_stay_bytes():
    backend = recording_backend()
    images, order = ones(backend, 4, 8, 8, 3, dtype=np.uint8), ones(backend, 4, dtype=np.int32)
    x, _ = backend.gather_augment(Samples(images, None, order, Augmentation()), BatchRequest(0))
    assert x.dtype == np.uint8
    assert backend.launcher.kernels == ["gather_augment<uint8>"]


def test_images_with_more_channels_than_the_kernel_holds_factors_for_are_refused():
    backend = recording_backend()
    images, order = ones(backend, 4, 8, 8, 17, dtype=np.uint8), ones(backend, 4, dtype=np.int32)
    with pytest.raises(ValueError, match="gather_augment: images have 17 channels; CUDA normalises up to 16"):
        backend.gather_augment(Samples(images, None, order, NORMALIZE), BatchRequest(0))


def test_images_are_normalised_to_what_cuda_computes_in():
    backend = recording_backend()
    images, order = ones(backend, 4, 8, 8, 3, dtype=np.uint8), ones(backend, 4, dtype=np.int32)
    with pytest.raises(TypeError, match="dtype is float64 but CUDA normalises to float32, float16, bfloat16"):
        backend.gather_augment(Samples(images, None, order, NORMALIZE), BatchRequest(0, dtype=np.float64))


def test_more_numbers_than_int32_counts_are_not_permuted():
    with pytest.raises(ValueError, match=r"permutation: count is 2147483648 but must be from 0 to 2\^31 - 1"):
        recording_backend().permutation(STREAM, 2**31)


def test_too_many_pixels_are_refused():
    backend = recording_backend()
    geometry = Geometry.pool((2**15, 2**8, 2**8, 1), 1)
    x = np.broadcast_to(np.float32(0), geometry.x_shape)
    with pytest.raises(ValueError, match="fewer than 2\\^31 pixels"):
        backend.max_pool2d_backward(x, x, geometry)


@pytest.mark.parametrize("extents", [(1025, 5, 3), (17, 257, 3), (17, 5, 33), (17, 129, 32)])
def test_a_larger_head_is_computed_by_the_tiles(extents):
    backend = recording_backend()
    (rows, inputs, outputs), bias = extents, None
    backend.linear_forward(ones(backend, rows, inputs), ones(backend, inputs, outputs), bias)
    labels = ones(backend, rows, dtype=np.int32)
    backend.linear_cross_entropy(ones(backend, rows, inputs), ones(backend, inputs, outputs), bias, labels)
    names = [kernel.split("<")[0] for kernel in backend.launcher.kernels]
    assert names == ["matmul_tiled", "matmul_tiled", "softmax_cross_entropy_simple", "matmul_tiled"]


def test_a_head_with_an_activation_is_computed_by_the_tiles():
    backend = recording_backend()
    backend.linear_forward(ones(backend, 17, 5), ones(backend, 5, 3), None, RELU)
    assert [kernel.split("<")[0] for kernel in backend.launcher.kernels] == ["matmul_tiled"]
