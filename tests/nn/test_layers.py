import re

import numpy as np
import pytest
from helpers import check_gradients, host

import gpunet as gp
from gpunet import functional as F
from gpunet import nn, optim

LAYERS = [
    (lambda: nn.Conv2d(3, 4, 3, padding=1), lambda m, x: F.conv2d(x, m.weight, m.bias, padding=1)),
    (lambda: nn.Conv2d(3, 5, (2, 3), stride=2, bias=False), lambda m, x: F.conv2d(x, m.weight, stride=2)),
    (
        lambda: nn.Conv2d(3, 6, 2, groups=3, dilation=2, padding="same", activation="tanh"),
        lambda m, x: F.conv2d(x, m.weight, m.bias, groups=3, dilation=2, padding="same", activation="tanh"),
    ),
    (lambda: nn.Linear(3, 4), lambda m, x: F.linear(x, m.weight, m.bias)),
    (lambda: nn.Linear(3, 4, bias=False, activation="relu"), lambda m, x: F.linear(x, m.weight, activation="relu")),
    (lambda: nn.MaxPool2d(2), lambda m, x: F.max_pool2d(x, 2)),
    (lambda: nn.MaxPool2d(3, stride=1, padding=1), lambda m, x: F.max_pool2d(x, 3, stride=1, padding=1)),
    (
        lambda: nn.AvgPool2d((2, 3), stride=2, padding=(1, 0), count_padding=False),
        lambda m, x: F.avg_pool2d(x, (2, 3), stride=2, padding=(1, 0), count_padding=False),
    ),
    (lambda: nn.AvgPool2d(3, padding="same"), lambda m, x: F.avg_pool2d(x, 3, padding="same")),
    (nn.Flatten, lambda m, x: F.flatten(x)),
    (nn.ReLU, lambda m, x: F.relu(x)),
    (lambda: nn.LeakyReLU(0.3), lambda m, x: F.leaky_relu(x, 0.3)),
    (nn.Sigmoid, lambda m, x: F.sigmoid(x)),
    (nn.Tanh, lambda m, x: F.tanh(x)),
    (nn.PReLU, lambda m, x: F.prelu(x, [0.25])),
    (lambda: nn.PReLU(3, init=-0.5), lambda m, x: F.prelu(x, [-0.5] * 3)),
    (lambda: nn.ELU(0.3), lambda m, x: F.elu(x, 0.3)),
    (nn.ReLU6, lambda m, x: F.relu6(x)),
    (lambda: nn.HardTanh(-0.5, 0.3), lambda m, x: F.hard_tanh(x, -0.5, 0.3)),
    (nn.HardSigmoid, lambda m, x: F.hard_sigmoid(x)),
    (nn.GELU, lambda m, x: F.gelu(x)),
    (nn.SiLU, lambda m, x: F.silu(x)),
    (lambda: nn.Softplus(2.0), lambda m, x: F.softplus(x, 2.0)),
    (nn.HardSwish, lambda m, x: F.hard_swish(x)),
    (lambda: nn.GroupNorm(3, 3, eps=1e-3), lambda m, x: F.group_norm(x, 3, m.weight, m.bias, eps=1e-3)),
    (lambda: nn.GroupNorm(1, 3, affine=False), lambda m, x: F.group_norm(x, 1)),
    (lambda: nn.LayerNorm(3), lambda m, x: F.layer_norm(x, 3, m.weight, m.bias)),
    (lambda: nn.LayerNorm((6, 5, 3), eps=0.1), lambda m, x: F.layer_norm(x, (6, 5, 3), m.weight, m.bias, eps=0.1)),
    (nn.Softmax, lambda m, x: F.softmax(x)),
    (nn.LogSoftmax, lambda m, x: F.log_softmax(x)),
    (lambda: nn.Dropout(0.4).eval(), lambda m, x: x),
    (lambda: nn.Dropout2d(0.4).eval(), lambda m, x: x),
    (lambda: nn.GaussianNoise(0.4).eval(), lambda m, x: x),
]


@pytest.mark.parametrize("i", range(len(LAYERS)))
def test_a_layer_is_its_function(backend, rng, i):
    make, function = LAYERS[i]
    layer = make().to(backend)
    x = gp.tensor(rng.normal(size=(2, 6, 5, 3)).astype(np.float32), backend=backend)
    y = layer(x)
    assert y.backend is backend
    np.testing.assert_array_equal(y.numpy(), function(layer, x).numpy())


def test_weights_have_the_shapes_of_the_contract():
    layer = nn.Conv2d(6, 8, (3, 2), groups=2)
    assert layer.weight.shape == (3, 2, 3, 8)
    assert layer.bias.shape == (8,)
    assert not layer.bias.numpy().any()
    assert nn.Conv2d(6, 8, 3, bias=False).bias is None
    assert nn.Linear(4, 5).weight.shape == (4, 5)


def test_gradients_of_a_network_match_finite_differences(backend, rng):
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding="same", activation="tanh"), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(18, 4), nn.Tanh()
    ).to(backend)  # fmt: skip
    layers = model.layers

    def run(x, w, b, v):
        layers[0].weight, layers[0].bias, layers[3].weight = w, b, v
        layers[3].bias = None
        return model(x)

    shapes = (2, 5, 6, 2), (3, 3, 2, 3), (3,), (18, 4)
    check_gradients(run, [rng.normal(size=s) for s in shapes], backend=backend, rng=rng)


def test_dropout_drops_only_while_training(backend):
    layer = nn.Dropout(0.5)
    x = gp.tensor(np.ones((10, 10), np.float32), backend=backend)
    assert (layer(x).numpy() == 0).any()
    assert layer.eval()(x) is x
    assert (layer.train()(x).numpy() == 0).any()


def test_noise_is_added_only_while_training(backend):
    x = gp.tensor(np.ones((10, 3, 3, 10), np.float32), backend=backend)
    for layer in (nn.Dropout2d(0.5), nn.GaussianNoise(0.5)):
        assert (layer(x).numpy() != 1).any()
        assert layer.eval()(x) is x
        assert (layer.train()(x).numpy() != 1).any()


def test_summary_counts_the_parameters_and_flops_of_new_layers():
    model = nn.Sequential(
        nn.GroupNorm(2, 4), nn.LayerNorm((5, 4)), nn.LayerNorm(4, elementwise_affine=False), nn.PReLU(4), nn.PReLU(), nn.ELU(),
        nn.SiLU(), nn.Dropout2d(), nn.GaussianNoise(),
    )  # fmt: skip
    rows = gp.summary(model, (3, 5, 4)).rows
    assert [row.parameters for row in rows] == [8, 40, 0, 4, 1, 0, 0, 0, 0]
    assert [row.formula for row in rows] == ["2·4", "2·20", "", "4", "1", "", "", "", ""]
    assert [row.flops // 60 for row in rows] == [8, 8, 6, 2, 2, 3, 4, 0, 0]


def test_layers_name_their_numbers():
    layers = (
        nn.PReLU(4),
        nn.ELU(0.5),
        nn.HardTanh(-2, 2),
        nn.Softplus(3.0),
        nn.GroupNorm(2, 4),
        nn.LayerNorm(5, elementwise_affine=False),
    )
    assert [repr(layer) for layer in layers] == [
        "PReLU(4)", "ELU(0.5)", "HardTanh(-2, 2)", "Softplus(3.0)", "GroupNorm(2, 4, eps=1e-05)",
        "LayerNorm((5,), eps=1e-05, elementwise_affine=False)",
    ]  # fmt: skip


def test_raw_arrays_move_to_the_layers_backend(backend, rng):
    layer = nn.Linear(3, 2).to(backend)
    y = layer(rng.normal(size=(4, 3)).astype(np.float32))
    assert y.backend is backend
    assert nn.ReLU()([[-1.0, 1.0]]).numpy().tolist() == [[0, 1]]


def test_a_layer_refuses_a_tensor_of_another_backend():
    layer = nn.Linear(3, 2).to("reference")
    with pytest.raises(gp.BackendError, match="linear: weight is on reference but x on numpy"):
        layer(gp.tensor(np.ones((1, 3), np.float32), backend="numpy"))


def test_out_of_memory_names_the_layer_and_the_bytes(backend):
    class Huge(nn.Module):
        def forward(self, x):
            return np.empty(1 << 56)

    for model in (Huge(), nn.Sequential(nn.ReLU(), nn.Sequential(Huge()))):
        with pytest.raises(MemoryError, match=r"^Huge: out of memory: .*512. PiB"):
            model(gp.tensor([1.0], backend=backend))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2d(0, 4, 3), "Conv2d: in_channels must be at least 1, got 0"),
        (lambda: nn.Conv2d(3, 4, 0), "Conv2d: kernel_size must be at least 1, got 0"),
        (lambda: nn.Conv2d(3, 4.0, 3), "Conv2d: out_channels must be an integer, got 4.0"),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "Conv2d: groups=2 must divide in_channels=3 and out_channels=4"),
        (lambda: nn.Conv2d(3, 4, 3, activation="gelu"), "Conv2d: activation is 'gelu' but takes one of"),
        (lambda: nn.Conv2d(3, 4, 3, init="he"), "init: 'he' is none of kaiming_uniform"),
        (lambda: nn.Linear(3, -1), "Linear: out_features must be at least 1, got -1"),
        (lambda: nn.Dropout(2), "Dropout: p is 2 but must be from 0 to 1"),
        (lambda: nn.Dropout2d(-1), "Dropout2d: p is -1 but must be from 0 to 1"),
        (lambda: nn.GaussianNoise(-1), "GaussianNoise: std is -1 but must be at least 0, and finite"),
        (lambda: nn.Dropout("a"), "Dropout: p is 'a' but must be from 0 to 1"),
        (lambda: nn.GaussianNoise("a"), "GaussianNoise: std is 'a' but must be at least 0, and finite"),
        (lambda: nn.LeakyReLU(-1), "leaky_relu: negative_slope is -1 but must be positive"),
        (lambda: nn.ELU(0), "elu: alpha is 0 but must be positive"),
        (lambda: nn.HardTanh(1, 1), "hard_tanh: min_val is 1 but must be less than max_val 1"),
        (lambda: nn.Softplus(0), "softplus: beta is 0 but must be positive"),
        (lambda: nn.PReLU(0), "PReLU: num_parameters must be at least 1, got 0"),
        (lambda: nn.PReLU(3, init=np.nan), "PReLU: init is nan but must be a finite number"),
        (lambda: nn.PReLU(init="a"), "PReLU: init is 'a' but must be a finite number"),
        (lambda: nn.GroupNorm(3, 4), "GroupNorm: num_groups=3 must divide num_channels=4"),
        (lambda: nn.GroupNorm(2, 4, eps=-1), "GroupNorm: eps is -1 but must be at least 0"),
        (lambda: nn.LayerNorm(()), "LayerNorm: normalized_shape must be an integer, got ()"),
        (
            lambda: nn.LayerNorm(3)(gp.tensor(np.ones((2, 4)))),
            "layer_norm: x has shape (2, 4) but its last axes must be normalized_shape (3,)",
        ),
        (lambda: nn.Linear(2, 2, init=lambda shape: np.ones(3)), "gave shape (3,) for (2, 2)"),
        (lambda: gp.models.lenet((11, 28, 1)), "lenet: images are 11x28 but must be at least 12x12"),
        (lambda: gp.models.cnn((3, 28, 1)), "cnn: images are 3x28 but must be at least 4x4"),
    ],
)
def test_a_bad_layer_is_named_when_it_is_made(make, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        make()


@pytest.mark.parametrize("shape", [(12, 12, 1), (28, 28, 1), (32, 33, 3)])
def test_models_take_images_of_many_sizes(backend, rng, shape):
    for make in (gp.models.lenet, gp.models.cnn):
        if shape == (32, 33, 3) and make is gp.models.cnn:
            continue
        model = make(shape, num_classes=7).to(backend)
        logits = model(rng.normal(size=(2, *shape)).astype(np.float32))
        assert logits.shape == (2, 7)
    assert gp.models.cnn((4, 5, 1), dropout=0.5)(np.ones((1, 4, 5, 1), np.float32)).shape == (1, 10)


def test_a_gradient_reaches_every_parameter_of_a_model(backend, rng):
    model = gp.models.lenet((12, 13, 2)).to(backend)
    F.cross_entropy(model(rng.normal(size=(3, 12, 13, 2)).astype(np.float32)), [0, 1, 2]).backward()
    for name, p in model.named_parameters():
        assert np.abs(host(p.grad, backend)).max() > 0, name


PRODUCTS = {
    "conv": (lambda: nn.Conv2d(4, 6, 3), (5, 6, 4)),
    "pointwise conv": (lambda: nn.Conv2d(4, 6, 1, activation="relu"), (5, 6, 4)),
    "depthwise conv": (lambda: nn.Conv2d(4, 4, 3, groups=4), (5, 6, 4)),
    "transposed conv": (lambda: nn.ConvTranspose2d(4, 6, 2, stride=2), (5, 6, 4)),
    "locally connected": (lambda: nn.LocallyConnected2d((5, 6, 4), 3, 2), (5, 6, 4)),
    "linear": (lambda: nn.Linear(5, 3), (5,)),
    "linear over pixels": (lambda: nn.Linear(4, 3), (5, 6, 4)),
    "batch norm": (lambda: nn.BatchNorm2d(4), (5, 6, 4)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (5, 6, 4)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_gradients_of_several_batches_add_up_in_the_arena(backend, rng, name):
    make, sample = PRODUCTS[name]
    layer = make().to(backend)
    optim.SGD(layer.parameters(), lr=0.1)
    alone, added = [], []
    for held in (alone, added):
        draw = np.random.default_rng(5)
        for _ in range(3):
            if held is alone:
                for p in layer.parameters():
                    p.grad = None
            y = layer(gp.tensor(draw.normal(size=(2, *sample)).astype(np.float32), backend=backend))
            y.backward(gp.tensor(draw.normal(size=y.shape).astype(np.float32), backend=backend))
            held.append([host(p.grad, backend).astype(np.float64) for p in layer.parameters()])
        for p in layer.parameters():
            p.grad = None
    for i, total in enumerate(added[-1]):
        np.testing.assert_allclose(total, sum(grads[i] for grads in alone), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [nn.MaxPool2d, nn.AvgPool2d])
def test_a_pool_that_rounds_up_is_not_taken_into_a_convolution(backend, rng, kind):
    conv, pool = nn.Conv2d(2, 3, 2), kind(2, ceil_mode=True)
    x = rng.normal(size=(2, 6, 8, 2)).astype(np.float32)
    model = nn.Sequential(conv, pool).to(backend)
    x = gp.tensor(x, backend=backend)
    y = model(x)
    assert y.shape == (2, 3, 4, 3)
    np.testing.assert_allclose(y.numpy(), pool(conv(x)).numpy(), rtol=1e-6)
    assert "ceil_mode=True" in repr(pool)
    assert pool.flops((2, 5, 7, 3), y.shape) == y.size * 4
