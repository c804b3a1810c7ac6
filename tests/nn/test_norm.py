import re

import numpy as np
import pytest
import tolerances
from helpers import host, relative_error

import gpunet as gp
from gpunet import functional as F
from gpunet import nn, optim


def used(model, rng, shape, backend, steps=3):
    """The model, after training steps that gave its batch norms parameters and running moments of their own."""
    for name, p in model.named_parameters():
        if "bias" in name or p.ndim == 1:
            p.data = p.backend.asarray((1 + 0.3 * rng.normal(size=p.shape)).astype(np.float32))
    model.to(backend)
    with gp.no_grad():
        for _ in range(steps):
            model((2 * rng.normal(size=shape) + 1).astype(np.float32))
    return model


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("shape", [(4, 5, 3, 6), (7, 6)])
def test_a_layer_is_its_function(backend, rng, affine, activation, shape):
    layer = nn.BatchNorm2d(6, eps=1e-3, momentum=0.4, affine=affine, activation=activation).to(backend)
    x = gp.tensor(rng.normal(size=shape).astype(np.float32), backend=backend)
    running = [gp.tensor(np.full(6, v, np.float32), backend=backend) for v in (0, 1)]
    for training in (True, False):
        y = layer.train(training)(x)
        expected = F.batch_norm(
            x, *running, layer.weight, layer.bias, training=training, momentum=0.4, eps=1e-3, activation=activation
        )
        np.testing.assert_array_equal(y.numpy(), expected.numpy())
        np.testing.assert_array_equal(layer.running_mean.numpy(), running[0].numpy())
        np.testing.assert_array_equal(layer.running_var.numpy(), running[1].numpy())
    assert (layer.weight is None) == (layer.bias is None) == (not affine)
    residual = gp.tensor(rng.normal(size=shape).astype(np.float32), backend=backend)
    y, plain = layer(x, residual), F.batch_norm(x, *running, layer.weight, layer.bias, training=False, eps=1e-3)
    total = plain + residual
    np.testing.assert_allclose(y.numpy(), (F.relu(total) if activation else total).numpy(), atol=1e-6)


def test_running_moments_are_saved_moved_and_restored(backend, rng):
    layer = used(nn.BatchNorm2d(3), rng, (8, 3), backend)
    assert sorted(layer.state_dict()) == ["bias", "running_mean", "running_var", "weight"]
    twin = nn.BatchNorm2d(3).to(backend)
    twin.load_state_dict(layer.state_dict())
    x = rng.normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_array_equal(twin.eval()(x).numpy(), layer.eval()(x).numpy())
    np.testing.assert_array_equal(layer.to("reference").running_var.numpy(), twin.running_var.numpy())
    assert not np.allclose(twin.running_var.numpy(), 1)
    with pytest.raises(ValueError, match="missing running_var"):
        twin.load_state_dict({name: a for name, a in layer.state_dict().items() if name != "running_var"})


def test_evaluation_leaves_the_running_moments(backend, rng):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm2d(3)).to(backend)
    before = model.state_dict()
    model.eval()(rng.normal(size=(6, 4)).astype(np.float32))
    gp.summary(model.train(), (4,))
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_gradients_go_into_the_optimizers_arena_and_add_up(backend, rng):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, activation="relu")).to(backend)
    norm, x = model[1], rng.normal(size=(3, 6, 5, 2)).astype(np.float32)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    seen = []
    for _ in range(2):
        (model(x) * 1.0).sum().backward()
        seen.append([host(p.grad, backend).copy() for p in (norm.weight, norm.bias)])
        assert norm.weight.grad is norm.weight.arena.grad_views[norm.weight.segment]
    for once, twice in zip(*seen, strict=True):
        np.testing.assert_allclose(twice, 2 * once, rtol=1e-5, atol=1e-5)
        assert np.abs(once).max() > 0
    before = norm.weight.numpy().copy()
    optimizer.step()
    assert np.abs(norm.weight.numpy() - before).max() > 0


def test_a_frozen_scale_stays_while_the_shift_learns(backend, rng):
    norm = nn.BatchNorm2d(3).to(backend)
    norm.weight.requires_grad = False
    optimizer = optim.SGD(norm.parameters(), lr=0.1)
    (
        norm(rng.normal(size=(6, 3)).astype(np.float32)) * gp.tensor(np.float32([1, 2, 3]), backend=backend)
    ).sum().backward()
    optimizer.step()
    np.testing.assert_array_equal(norm.weight.numpy(), 1)
    np.testing.assert_allclose(norm.bias.numpy(), [-0.6, -1.2, -1.8], rtol=1e-5)


def test_summary_repr_and_errors():
    model = nn.Sequential(nn.BatchNorm2d(5, activation="relu"), nn.BatchNorm2d(5, affine=False))
    first, second = gp.summary(model, (4, 3, 5)).rows
    assert (first.kind, first.parameters, first.formula, first.flops) == (
        "BatchNorm2d + relu",
        10,
        "2·5",
        4 * 3 * 5 * 3,
    )
    assert (second.parameters, second.formula, second.flops) == (0, "", 4 * 3 * 5 * 2)
    assert repr(model[0]) == "BatchNorm2d(5, eps=1e-05, momentum=0.1, activation='relu')"
    assert repr(model[1]) == "BatchNorm2d(5, eps=1e-05, momentum=0.1, affine=False)"
    for make, message in (
        (lambda: nn.BatchNorm2d(0), "BatchNorm2d: num_features must be at least 1, got 0"),
        (lambda: nn.BatchNorm2d(3, momentum=-1), "BatchNorm2d: momentum is -1 but must be from 0 to 1"),
        (lambda: nn.BatchNorm2d(3, eps=-1e-5), "BatchNorm2d: eps is -1e-05 but must be at least 0"),
        (lambda: nn.BatchNorm2d(3, activation="softmax"), "BatchNorm2d: activation is 'softmax' but takes one of"),
        (
            lambda: nn.BatchNorm2d(3)(np.ones((2, 4), np.float32)),
            "batch_norm: weight has shape (3,) but x (2, 4) takes (4,)",
        ),
        (
            lambda: nn.BatchNorm2d(3)(np.ones((1, 3), np.float32)),
            "train on at least 2 elements per channel, or call eval()",
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            make()


def test_a_residual_adds_its_input(backend, rng):
    body = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1, activation="tanh")
    model = nn.Residual(*body).to(backend)
    x = gp.tensor(rng.normal(size=(2, 5, 4, 3)).astype(np.float32), backend=backend, requires_grad=True)
    y = model(x)
    np.testing.assert_array_equal(y.numpy(), (x + body[1](body[0](x))).numpy())
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    y.backward(np.zeros(y.shape, np.float32))
    with pytest.raises(ValueError, match=re.escape("Residual: the layers make (2, 3, 2, 3) of x (2, 5, 4, 3)")):
        nn.Residual(nn.Conv2d(3, 3, 3), nn.ReLU()).to(backend)(x)


FOLDED = {
    "conv": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6, eps=0.1)), 1),
    "conv without bias, fused activation": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, (2, 3), stride=2, bias=False), nn.BatchNorm2d(6, activation="tanh")), 1
    ),
    "grouped, without parameters": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6, affine=False), nn.ReLU()), 2
    ),
    "dense": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(90, 4), nn.BatchNorm2d(4, activation="relu")), 2),
    "nested, residual": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, activation="relu"),
            nn.Residual(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)),
        ),
        2,
    ),
    "not after an activation or a pool": (
        lambda: nn.Sequential(
            nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1, activation="relu"), nn.BatchNorm2d(4), nn.AvgPool2d((1, 2)),
            nn.BatchNorm2d(4), nn.Conv2d(4, 2, (2, 1), pool=2), nn.BatchNorm2d(2),
        ),
        7,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDED)
def test_a_folded_model_gives_what_the_model_gives_in_eval_mode(backend, rng, name):
    make, length = FOLDED[name]
    model = used(make(), rng, (8, 6, 5, 3), backend)
    before = model.state_dict()
    x = gp.tensor(rng.normal(size=(4, 6, 5, 3)).astype(np.float32), backend=backend)
    folded = nn.fold_batch_norm(model)
    assert model.training
    expected = model.eval()(x).numpy()
    assert len(folded) == length
    assert relative_error(folded(x).numpy(), expected) < tolerances.BACKENDS["float32"]
    own = {id(p) for p in model.parameters()} | {id(b) for _, b in model.named_buffers()}
    for _, p in [*folded.named_parameters(), *folded.named_buffers()]:
        assert id(p) not in own
        p.data = p.backend.full(p.shape, 9, p.dtype)
    for entry, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[entry])


def test_a_product_used_twice_is_folded_where_a_batch_norm_follows(backend, rng):
    shared = nn.Linear(4, 4)
    model = used(nn.Sequential(shared, nn.BatchNorm2d(4), nn.ReLU(), shared), rng, (8, 4), backend)
    x = rng.normal(size=(5, 4)).astype(np.float32)
    folded = nn.fold_batch_norm(model)
    assert len(folded) == 3
    assert relative_error(folded(x).numpy(), model.eval()(x).numpy()) < tolerances.BACKENDS["float32"]


def test_a_model_that_an_optimizer_holds_can_be_folded(backend, rng):
    model = used(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), rng, (8, 6, 5, 3), backend)
    optim.SGD(model.parameters(), lr=0.1)
    x = rng.normal(size=(2, 6, 5, 3)).astype(np.float32)
    folded = nn.fold_batch_norm(model)
    assert all(p.arena is None for p in folded.parameters())
    assert relative_error(folded(x).numpy(), model.eval()(x).numpy()) < tolerances.BACKENDS["float32"]


def test_without_a_momentum_the_running_moments_are_the_mean_of_all_batches(backend, rng):
    layer = nn.BatchNorm2d(3, momentum=None).to(backend)
    batches = [rng.normal(i, 1 + i, size=(4 + i, 5, 2, 3)) for i in range(5)]
    for x in batches:
        layer(gp.tensor(x.astype(np.float32), backend=backend))
    means = np.mean([x.mean(axis=(0, 1, 2)) for x in batches], axis=0)
    variances = np.mean([x.var(axis=(0, 1, 2), ddof=1) for x in batches], axis=0)
    np.testing.assert_allclose(layer.running_mean.numpy(), means, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(layer.running_var.numpy(), variances, rtol=1e-6)
    assert layer.num_batches_tracked.numpy() == 5
    assert "momentum=None" in repr(layer)
    layer.eval()(gp.tensor(batches[0].astype(np.float32), backend=backend))
    assert layer.num_batches_tracked.numpy() == 5


def test_the_count_of_batches_is_saved_with_the_layer_that_takes_their_mean():
    assert "num_batches_tracked" not in nn.BatchNorm2d(3).state_dict()
    state = nn.BatchNorm2d(3, momentum=None).state_dict()
    assert state["num_batches_tracked"].shape == ()


def test_a_count_goes_with_no_momentum_alone(backend):
    x, mean, var, count = (gp.tensor(np.ones(s, np.float32), backend=backend) for s in ((4, 3), (3,), (3,), ()))
    with pytest.raises(ValueError, match="batch_norm: num_batches_tracked goes with a momentum of None"):
        F.batch_norm(x, mean, var, training=True, momentum=None)
    with pytest.raises(ValueError, match="batch_norm: num_batches_tracked goes with a momentum of None"):
        F.batch_norm(x, mean, var, training=True, num_batches_tracked=count)
    with pytest.raises(ValueError, match="BatchNorm2d: momentum is 2 but must be from 0 to 1, or None"):
        nn.BatchNorm2d(3, momentum=2)
