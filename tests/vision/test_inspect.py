"""Looking inside: each result against finite differences, a perturbed input, or a case computed by hand."""

import numpy as np
import pytest
import tolerances
from helpers import same

import gpunet as gp
from gpunet import functional as F
from gpunet import nn
from gpunet.vision import inspect


class Branches(nn.Module):
    """Two branches of different windows, added, then put side by side with a third."""

    def __init__(self):
        self.stem = nn.Conv2d(2, 3, (3, 2), stride=2, padding=1)
        self.near = nn.Conv2d(3, 4, 1)
        self.far = nn.Conv2d(3, 4, 3, padding="same", dilation=2)
        self.wide = nn.Conv2d(3, 2, (1, 5), padding=(0, 2))
        self.last = nn.Conv2d(6, 3, 2)

    def forward(self, x):
        x = F.relu(self.stem(x))
        return self.last(F.concatenate([self.near(x) + self.far(x), self.wide(x)], axis=3))


class Added(Branches):
    """The same, where a convolution adds the other branch."""

    def forward(self, x):
        x = F.relu(self.stem(x))
        return self.last(F.concatenate([self.near(x, self.far(x)), self.wide(x)], axis=3))


def classifier(backend, dtype, *, fuse=True):
    """Two convolutions with pools, and a dense layer: (N, 9, 11, 2) -> (N, 4)."""
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(5, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(24, 8, activation="relu"), nn.Dropout(0.5), nn.Linear(8, 4), fuse=fuse,
    )  # fmt: skip
    return model.astype(dtype).to(backend)


def images_for(rng, dtype, n=3):
    return rng.normal(size=(n, 9, 11, 2)).astype(dtype)


# ---- filters and maps


def test_feature_maps_are_what_each_layer_gives_alone(backend, dtype, rng):
    model, images = classifier(backend, dtype), images_for(rng, dtype)
    maps = inspect.feature_maps(model, images)
    assert list(maps) == [str(i) for i in range(10)]
    x = gp.tensor(images, backend=backend)
    for name, layer in zip(maps, model.eval(), strict=True):
        x = layer(x)
        same(maps[name], x.numpy(), tolerances.BACKENDS)
    assert list(inspect.feature_maps(model, images[0], ["4", "1"])) == ["1", "4"]


def test_first_layer_filters_are_a_copy_of_the_first_convolutions(backend, dtype):
    model = classifier(backend, dtype)
    weight = inspect.first_layer_filters(model)
    assert np.array_equal(weight, model[0].weight.numpy())
    weight[:] = 0
    assert model[0].weight.numpy().any()


def test_looking_leaves_the_model_as_it_was(rng):
    model, images = classifier("numpy", np.float64), images_for(rng, np.float64)
    model.train()
    model[3].training = False
    model[0].weight.requires_grad = False
    model(images).backward(rng.normal(size=(3, 4)))
    before = [None if p.grad is None else p.grad.copy() for p in model.parameters()]
    inspect.saliency(model, images)
    inspect.grad_cam(model, images)
    inspect.deconvnet(model, images, "4", 1)
    with pytest.raises(ValueError, match="unit is 99"):
        inspect.top_patches(model, images, "4", 99, 1)
    assert [layer.training for layer in model] == [True] * 3 + [False] + [True] * 6
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 7
    assert not any(module.hooked for _, module in model.named_modules())
    for parameter, grad in zip(model.parameters(), before, strict=True):
        assert (parameter.grad is None) == (grad is None)
        assert grad is None or np.array_equal(parameter.grad, grad)


# ---- receptive fields


def seen(model, layer, unit, shape):
    """((top, bottom), (left, right)) of the pixels that change a unit when they are made brighter, one by one."""
    rng = np.random.default_rng(1)
    still = rng.uniform(size=(1, *shape))
    rows, columns = np.indices(shape[:2]).reshape(2, -1)
    moved = np.repeat(still, len(rows), axis=0)
    moved[np.arange(len(rows)), rows, columns] += 1e3  # enough to win any pool, as every weight is positive

    def at(images):
        return inspect.feature_maps(model, images, [layer])[layer][:, *unit].sum(axis=-1)

    changed = ~np.isclose(at(moved), at(still))  # one image may be rounded otherwise than many
    return tuple((int(axis[changed].min()), int(axis[changed].max()) + 1) for axis in (rows, columns))


def positive(model):
    for parameter in model.astype(np.float64).parameters():
        parameter.data = np.abs(parameter.data) + 0.1
    return model


def chain():
    return nn.Sequential(
        nn.Conv2d(2, 3, (3, 4), padding="same"), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(3, 2, 3, stride=(2, 1), padding=((0, 2), (1, 0)), activation="relu", pool=2), nn.AvgPool2d(2, stride=1),
    )  # fmt: skip


def unshared():
    return nn.Sequential(nn.Conv2d(2, 3, 2), nn.LocallyConnected2d((23, 28, 3), 2, (3, 2), stride=2, padding=(1, 0)))


def padded():
    return nn.Sequential(
        nn.ReflectionPad2d(1), nn.Conv2d(2, 3, (3, 4), stride=(2, 1)), nn.ZeroPad2d(((1, 0), (1, 0))), nn.MaxPool2d(2),
        nn.Conv2d(3, 2, 2),
    )  # fmt: skip


@pytest.mark.parametrize("make", [chain, unshared, padded, Branches, Added])
def test_receptive_fields_are_the_pixels_that_change_a_unit(make):
    shape = (24, 29, 2)
    model = positive(make())
    fields = inspect.receptive_fields(model, shape)
    outputs = inspect.feature_maps(model, np.zeros((1, *shape)))
    assert list(fields) == list(outputs)
    layers = dict(model.named_modules())
    for layer, y in outputs.items():
        if isinstance(
            layers[layer], nn.ReflectionPad2d | nn.ZeroPad2d
        ):  # whose outermost units see no pixel, or another
            continue
        for unit in ((0, 0), (y.shape[1] // 2, y.shape[2] // 2), (y.shape[1] - 1, y.shape[2] - 1)):
            box = fields[layer].box(*unit)
            inside = tuple((max(a, 0), min(b, n)) for (a, b), n in zip(box, shape, strict=False))
            assert seen(model, layer, unit, shape) == inside, (layer, unit)


def test_receptive_fields_of_lenet_by_hand():
    fields = inspect.receptive_fields(gp.models.lenet(), (28, 28, 1))
    numbers = {name: (f.size[0], f.stride[0], f.offset[0]) for name, f in fields.items() if name in "0123"}
    assert numbers == {"0": (5, 1, -2), "1": (6, 2, -2), "2": (14, 2, -2), "3": (16, 4, -2)}
    assert fields["5"] == inspect.ReceptiveField((28, 28), (0, 0), (0, 0))
    assert fields["5"].box(0, 0) == ((0, 28), (0, 28))


# ---- patches


def test_top_patches_are_cut_where_the_unit_is_strongest(backend, dtype, rng):
    model, images = classifier(backend, dtype), images_for(rng, dtype, 7)
    maps = inspect.feature_maps(model, images, ["3"])["3"][..., 2]
    found = inspect.top_patches(model, images, "3", 2, 4, batch_size=3)
    strongest = maps.max(axis=(1, 2))
    order = np.argsort(-strongest)[:4]
    assert found.images.tolist() == order.tolist()
    same(found.values.astype(dtype), strongest[order], tolerances.BACKENDS)
    assert found.patches.shape == (4, 8, 8, 2)  # 3, pooled 4, and two more windows a stride of 2 apart
    padded = np.pad(images, ((0, 0), (20, 20), (20, 20), (0, 0)))
    for patch, image, ((top, bottom), (left, right)) in zip(found.patches, found.images, found.boxes, strict=True):
        row, column = np.unravel_index(maps[image].argmax(), maps[image].shape)
        assert (top, left) == (2 * row - 3, 2 * column - 3)
        assert np.array_equal(patch, padded[image, top + 20 : bottom + 20, left + 20 : right + 20])


def test_units_without_pixels_see_the_whole_image(rng):
    model, images = classifier("numpy", np.float64), images_for(rng, np.float64)
    found = inspect.top_patches(model, images, "9", 0, 1)
    scores = inspect.feature_maps(model, images, ["9"])["9"][:, 0]
    assert np.array_equal(found.patches[0], images[scores.argmax()])
    assert np.array_equal(found.cut(0, images[0]), images[0])


# ---- attribution


def test_saliency_is_the_finite_difference_of_the_score(rng):
    model, images = classifier("numpy", np.float64).eval(), images_for(rng, np.float64, 2)
    target, step = np.array([3, 1]), 1e-6
    maps = inspect.saliency(model, images, target)
    expected = np.zeros(images.shape)
    for place in np.ndindex(images.shape):
        moved = [images.copy(), images.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        above, below = (model(m).numpy()[place[0], target[place[0]]] for m in moved)
        expected[place] = (above - below) / (2 * step)
    assert maps.shape == (2, 9, 11)
    np.testing.assert_allclose(maps, np.abs(expected).max(axis=-1), atol=1e-7)


@pytest.mark.parametrize("method", [inspect.saliency, inspect.grad_cam])
def test_without_a_target_the_highest_score_is_explained(backend, dtype, rng, method):
    model, images = classifier(backend, dtype), images_for(rng, dtype)
    classes = model.eval()(images).numpy().argmax(axis=1)
    assert np.array_equal(method(model, images), method(model, images, target=classes))
    assert np.array_equal(method(model, images[1], target=2), method(model, images[1:2], target=[2]))


def test_gradients_of_every_backend_agree(backend, dtype, rng):
    if backend.name == "reference":
        return
    images = images_for(rng, dtype)
    model, plain = classifier(backend, dtype), classifier("reference", np.float64)
    plain.load_state_dict(model.state_dict())
    for explain in (
        lambda m: inspect.saliency(m, images, 1),
        lambda m: inspect.grad_cam(m, images, "4", 1),
        lambda m: inspect.deconvnet(m, images, "5", 3),
    ):
        same(explain(model), explain(plain), tolerances.BACKENDS)


def test_grad_cam_by_hand():
    # one 1x1 convolution to two channels, and a dense layer over their 2x2 pixels
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten(), nn.Linear(8, 2, bias=False)).astype(np.float64)
    model[0].weight.data = np.array([[[[1.0, -2.0]]]])
    dense = np.zeros((8, 2))
    dense[:, 0] = [4, 1, 0, 1, 0, 1, 0, -3]  # channel 0 then 1 of each pixel: means 1 and 0
    dense[:, 1] = [0, -1, 0, -1, 0, -1, 0, -1]  # means 0 and -1
    model[2].weight.data = dense
    image = np.array([[1.0, 2], [-3, 4]])[..., None]
    # A_0 = x and A_1 = -2 x, so class 0 gives ReLU(1 x + 0 (-2 x)) and class 1 ReLU(-1 (-2 x))
    assert inspect.grad_cam(model, image, "0", 0).tolist() == [[[1, 2], [0, 4]]]
    assert inspect.grad_cam(model, image, "0", 1).tolist() == [[[2, 4], [0, 8]]]
    assert np.array_equal(inspect.grad_cam(model, image, target=1), inspect.grad_cam(model, image, "0", 1))


def test_grad_cam_weighs_by_the_mean_gradient_of_the_layers_output(rng):
    model, images = classifier("numpy", np.float64).eval(), images_for(rng, np.float64)
    for layer in ("0", "2", "4", "5"):
        inner = nn.Sequential(*[model[i] for i in range(int(layer) + 1)])
        outer = nn.Sequential(*[model[i] for i in range(int(layer) + 1, 10)])
        maps = inner(images).numpy()
        cut = gp.tensor(maps, requires_grad=True)
        outer(cut)[:, 2].sum().backward()
        expected = np.maximum(np.einsum("nhwc,nc->nhw", maps, cut.grad.mean(axis=(1, 2))), 0)
        np.testing.assert_allclose(inspect.grad_cam(model, images, layer, 2), expected, atol=1e-12)


def test_occlusion_covers_a_rectangle_around_every_pixel(rng):
    model, images = classifier("numpy", np.float64).eval(), images_for(rng, np.float64, 2)
    maps = inspect.occlusion(model, images, (3, 4), stride=(2, 3), target=[1, 3], value=0.5, batch_size=7)
    assert maps.shape == (2, 5, 4)
    for n, i, j in np.ndindex(maps.shape):
        covered = images[n : n + 1].copy()
        rows, columns = np.arange(9), np.arange(11)
        over = ((rows >= 2 * i - 1) & (rows < 2 * i + 2))[:, None] & (columns >= 3 * j - 2) & (columns < 3 * j + 2)
        covered[:, over] = 0.5
        expected = F.softmax(model(covered)).numpy()[0, [1, 3][n]]
        assert maps[n, i, j] == pytest.approx(expected, rel=1e-12)


# ---- deconvnet


def test_deconvnet_by_hand():
    # a row of four pixels, the filter (2, -1), ReLU, a pool over pairs: switches 1 and 2 win
    model = nn.Sequential(nn.Conv2d(1, 1, (1, 2), padding=((0, 0), (0, 1))), nn.ReLU(), nn.MaxPool2d((1, 2)))
    model = model.astype(np.float64)
    model[0].weight.data = np.array([[[[2.0]], [[-1.0]]]])
    model[0].bias.data = np.array([0.5])
    image = np.array([[[0.0], [3], [1], [2]]])  # maps: 0·2-3, 3·2-1, 1·2-2, 2·2-0, all + 0.5 -> 0, 5.5, 0.5, 4.5
    maps = inspect.feature_maps(model, image)
    assert maps["2"].ravel().tolist() == [5.5, 4.5]
    # the strongest, 5.5, goes back to pixel 1 of the maps, and by the transposed filter to pixels 1 and 2
    assert inspect.deconvnet(model, image, "2", 0).ravel().tolist() == [0, 11, -5.5, 0]
    assert inspect.deconvnet(model, image, "2", 0, position=(0, 1)).ravel().tolist() == [0, 0, 0, 9]


def test_deconvnet_rectifies_what_goes_back_and_not_where_the_input_was():
    # y = relu(x) - 2 relu(-x) by two channels, then a 1x1 filter (1, -1): a unit whose way back has a negative part
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 1, 1, bias=False)).astype(np.float64)
    model[0].weight.data = np.array([[[[1.0, 1.0]]]])
    model[2].weight.data = np.array([[[[3.0], [-1.0]]]])
    image = np.array([[[2.0]]])
    # unit: 3·2 - 2 = 4; back: (12, -4), rectified (12, 0), so 12; the gradient would pass both and give 8
    assert inspect.deconvnet(model, image, "2", 0).item() == 12
    assert inspect.deconvnet(model, -image, "2", 0).item() == 0  # nothing came out, so nothing goes back


def test_deconvnet_is_the_same_fused_and_not(backend, dtype, rng):
    model, images = classifier(backend, dtype), images_for(rng, dtype)
    apart = classifier(backend, dtype, fuse=False)
    apart.load_state_dict(model.state_dict())
    for layer in ("5", "7", "9"):
        same(
            inspect.deconvnet(model, images, layer, 1), inspect.deconvnet(apart, images, layer, 1), tolerances.BACKENDS
        )


def test_deconvnet_is_the_same_with_activation_and_pool_as_options(backend, dtype, rng):
    apart = classifier(backend, dtype)
    inside = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding="same", activation="relu", pool=2), nn.Conv2d(5, 6, 3, padding=1, activation="relu"),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 8, activation="relu"), nn.Linear(8, 4),
    ).astype(dtype).to(backend)  # fmt: skip
    apart[0].bias.data = backend.asarray(np.full(5, 9), dtype)  # each window has a positive value: both take its switch
    for other, parameter in zip(inside.parameters(), apart.parameters(), strict=True):
        other.data = backend.copy(parameter.data)
    images = images_for(rng, dtype)
    for layer, same_layer in (("1", "4"), ("2", "5"), ("5", "9")):
        a, b = inspect.deconvnet(inside, images, layer, 1), inspect.deconvnet(apart, images, same_layer, 1)
        assert a.any()
        same(a, b, tolerances.BACKENDS)


def test_a_projection_stays_inside_the_units_receptive_field(rng):
    model, images = classifier("numpy", np.float64), images_for(rng, np.float64)
    field = inspect.receptive_fields(model, (9, 11, 2))["4"]
    (top, bottom), (left, right) = field.box(1, 3)
    projection = inspect.deconvnet(model, images, "4", 2, position=(1, 3))
    assert projection.any()
    projection[:, max(top, 0) : bottom, max(left, 0) : right] = 0
    assert not projection.any()


# ---- translation


def test_distances_of_the_pixels_themselves_by_hand():
    images = np.zeros((2, 1, 4, 1))
    images[0, 0, 0], images[1, 0, 1] = 3, 4  # 5 apart, both ways
    distances = inspect.translation(nn.Flatten(), images, shifts=[0, 1, -1, 4])
    # moved by 1: sqrt(9 + 9) and sqrt(16 + 16); by -1: 3 leaves, and sqrt(32); by 4 both leave
    expected = [0, 3.5 * np.sqrt(2) / 5, (3 + 4 * np.sqrt(2)) / 2 / 5, 3.5 / 5]
    np.testing.assert_allclose(distances, expected)
    assert inspect.translation(nn.Flatten(), images, shifts=[1], direction=(1, 0))[0] == pytest.approx(3.5 / 5)


def test_a_mean_over_all_pixels_does_not_see_a_translation_and_a_pool_less_of_it(rng):
    images = np.zeros((8, 12, 24, 1))
    images[:, 3:9, 4:10] = rng.normal(size=(8, 6, 6, 1))
    filters = rng.normal(size=(3, 3, 1, 4))

    def distances(*behind):
        model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.ReLU(), *behind).astype(np.float64)
        model[0].weight.data = filters
        return inspect.translation(model, images, shifts=range(5))

    conv, pooled, averaged = distances(), distances(nn.AvgPool2d(4)), distances(nn.AvgPool2d((12, 24)))
    np.testing.assert_allclose(averaged, 0, atol=1e-12)
    assert pooled[1] < 0.8 * conv[1]  # a step of less than the pool's


def test_half_way_is_interpolated():
    assert inspect.half_way([0, 2, 4], [0.0, 0.4, 0.8]) == pytest.approx(2.5)
    assert inspect.half_way([0, 1], [0.0, 0.4]) == float("inf")
    assert inspect.half_way([3], [0.9]) == 3


# ---- errors

MODEL = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(2 * 4 * 5, 3))
POOLED = nn.Sequential(MODEL[0], nn.GlobalAvgPool2d())
IMAGES = np.random.default_rng(0).normal(size=(2, 6, 7, 1)).astype(np.float32)


def behind(activation):
    """MODEL with another activation."""
    return nn.Sequential(MODEL[0], activation, *MODEL.layers[2:])


class Unused(nn.Module):
    def __init__(self):
        self.used, self.unused = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        return self.used(F.flatten(x))


ONLY_RELU = "deconvnet: takes ReLU as the only activation, got "


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: inspect.feature_maps(MODEL, IMAGES, ["9"]), ValueError, "layer is '9' but takes one of 0, 1, 2, 3"),
        (lambda: inspect.saliency(MODEL, IMAGES.astype(np.uint8)), TypeError, "saliency: images are uint8 but must be floats"),
        (lambda: inspect.saliency(MODEL, IMAGES[0, ..., 0]), ValueError, "saliency: images have shape (6, 7) but takes"),
        (lambda: inspect.saliency(MODEL, IMAGES[:0]), ValueError, "saliency: images have shape (0, 6, 7, 1)"),
        (lambda: inspect.saliency(MODEL, IMAGES, 3), ValueError, "saliency: target must be from 0 to 2, got 3 to 3"),
        (lambda: inspect.saliency(MODEL, IMAGES, [0, 1, 2]), ValueError, "saliency: target must be a class, or one for"),
        (lambda: inspect.saliency(MODEL[0], IMAGES), ValueError, "the model gives shape (2, 4, 5, 2) but must score"),
        (lambda: inspect.grad_cam(POOLED, IMAGES), ValueError, "score classes, (N, K); let the model end with nn.Flatten()"),
        (lambda: inspect.grad_cam(MODEL, IMAGES, "3"), ValueError, "takes a layer with pixels, (N, H, W, C), got '3' (2, 3)"),
        (lambda: inspect.grad_cam(lambda x: x, IMAGES, "3"), TypeError, "grad_cam: model takes a Module, got function"),
        (lambda: inspect.occlusion(MODEL, IMAGES, 8), ValueError, "occlusion: size is 8x8 but images have 6x7 pixels"),
        (lambda: inspect.occlusion(MODEL, IMAGES, 0), ValueError, "occlusion: size must be at least 1"),
        (lambda: inspect.deconvnet(MODEL, IMAGES, "0", 2), ValueError, "deconvnet: unit is 2 but layer '0' has 2, from 0"),
        (lambda: inspect.deconvnet(MODEL, IMAGES, "0", 1.0), TypeError, "deconvnet: unit must be an integer, got 1.0"),
        (lambda: inspect.deconvnet(MODEL, IMAGES, "0", 0, (4, 0)), ValueError, "position is (4, 0) but layer '0' has (4, 5)"),
        (lambda: inspect.deconvnet(MODEL, IMAGES, "3", 0, (0, 0)), ValueError, "which has no pixels, so position must be None"),
        (lambda: inspect.deconvnet(MODEL, IMAGES, "1", 0), ValueError, ONLY_RELU + "tanh"),
        (lambda: inspect.deconvnet(behind(nn.GELU()), IMAGES, "3", 0), ValueError, ONLY_RELU + "gelu"),
        (lambda: inspect.deconvnet(behind(nn.PReLU()), IMAGES, "3", 0), ValueError, ONLY_RELU + "prelu"),
        (lambda: inspect.top_patches(MODEL, IMAGES, "0", 5, 1), ValueError, "top_patches: unit is 5 but layer '0' has 2"),
        (lambda: inspect.top_patches(MODEL, IMAGES, "0", 0, 9), ValueError, "top_patches: count is 9 but there are 2 images"),
        (lambda: inspect.first_layer_filters(nn.ReLU()), ValueError, "first_layer_filters: the model has no Conv2d (ReLU)"),
        (lambda: inspect.receptive_fields(MODEL, (6, 7)), ValueError, "input_shape is (6, 7) but takes (H, W, C)"),
        (lambda: inspect.receptive_fields(MODEL, (2, 2, 1)), ValueError, "conv2d: a window of 3 pixels is larger than"),
        (lambda: inspect.translation(MODEL, IMAGES[:1]), ValueError, "translation: takes at least 2 images"),
        (lambda: inspect.translation(MODEL, IMAGES[[0, 0]]), ValueError, "the features of all images are the same"),
        (lambda: inspect.translation(MODEL, IMAGES, shifts=[0.5]), TypeError, "shifts and direction take whole pixels"),
        (lambda: inspect.half_way([0, 1], [0.0]), ValueError, "half_way: takes increasing shifts and one distance for each"),
        (
            lambda: inspect.feature_maps(Unused(), IMAGES[:, :2, :2], ["unused"]),
            ValueError, "feature_maps: layer 'unused' did not run",
        ),
    ],
)  # fmt: skip
def test_bad_input_raises_an_error_of_one_line(call, error, message):
    with pytest.raises(error) as raised:
        call()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not any(module.hooked for _, module in MODEL.named_modules())
