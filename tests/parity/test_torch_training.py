"""Optimizers, schedules and a whole training run beside PyTorch's."""

import numpy as np
import pytest
import tolerances
from helpers import relative_error

import gpunet as gp
from gpunet import functional as F
from gpunet import nn, optim
from gpunet.autograd import parameter

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

OPTIMIZERS = [
    (optim.SGD, torch.optim.SGD, {"lr": 0.1}),
    (optim.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (optim.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (optim.SGD, torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.1}),
    (optim.Adam, torch.optim.Adam, {"lr": 0.01}),
    (optim.Adam, torch.optim.Adam, {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-4, "weight_decay": 0.1}),
    (optim.AdamW, torch.optim.AdamW, {"lr": 0.01}),
    (optim.AdamW, torch.optim.AdamW, {"lr": 0.01, "betas": (0.8, 0.99), "weight_decay": 0.2}),
    (optim.RMSprop, torch.optim.RMSprop, {"lr": 0.01}),
    (optim.RMSprop, torch.optim.RMSprop, {"lr": 0.01, "alpha": 0.9, "momentum": 0.8, "weight_decay": 0.1, "eps": 1e-4}),
    (optim.Adagrad, torch.optim.Adagrad, {"lr": 0.1}),
    (optim.Adagrad, torch.optim.Adagrad, {"lr": 0.1, "weight_decay": 0.1, "eps": 1e-4}),
]


@pytest.mark.parametrize(("kind", "torch_kind", "options"), OPTIMIZERS)
@pytest.mark.parametrize("clip", [None, 0.7])
def test_20_steps_in_float64_are_pytorchs(backend, rng, kind, torch_kind, options, clip):
    if "float64" not in backend.dtypes:
        pytest.skip(f"{backend.name} does not compute in float64")
    x, y = rng.normal(size=(9, 5)), rng.normal(size=(9, 4))
    start = [rng.normal(size=(5, 6)), rng.normal(size=6), rng.normal(size=(6, 4))]
    ours = [parameter(a.copy()) for a in start]
    for p in ours:
        p.move(backend)
    theirs = [torch.tensor(a, requires_grad=True) for a in start]
    mine, other = kind(ours, clip_norm=clip, **options), torch_kind(theirs, **options)
    x_here, x_there, y_there = gp.tensor(x, backend=backend), torch.tensor(x), torch.tensor(y)
    for step in range(20):
        mine.zero_grad()
        w, b, v = ours
        F.mse_loss(F.linear(F.tanh(F.linear(x_here, w, b)), v), y).backward()
        mine.step()
        other.zero_grad()
        w, b, v = theirs
        ((torch.tanh(x_there @ w + b) @ v - y_there) ** 2).mean().backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(theirs, clip)
        other.step()
        for p, t in zip(ours, theirs, strict=True):
            assert relative_error(p.numpy(), t.detach().numpy()) < tolerances.TORCH_UPDATE, step


@pytest.mark.parametrize(("nesterov", "ns_steps"), [(False, 5), (True, 3)])
def test_20_steps_of_muon_in_float64_are_pytorchs(backend, rng, nesterov, ns_steps, monkeypatch):
    if "float64" not in backend.dtypes:
        pytest.skip(f"{backend.name} does not compute in float64")
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda x: x.clone())  # in which PyTorch iterates
    shapes = [(3, 3, 2, 5), (12, 30), (6, 6)]
    ours = [parameter(rng.normal(size=s)) for s in shapes]
    theirs = [torch.tensor(p.numpy().reshape(-1, p.shape[-1]).T.copy(), requires_grad=True) for p in ours]
    for p in ours:
        p.move(backend)
    options = {"lr": 0.05, "momentum": 0.8, "nesterov": nesterov, "ns_steps": ns_steps, "weight_decay": 0.1}
    mine, other = optim.Muon(ours, **options), torch.optim.Muon(theirs, **options)
    for _ in range(20):
        for p, t in zip(ours, theirs, strict=True):
            gradient = rng.normal(size=p.shape)
            p.grad = backend.asarray(gradient)
            t.grad = torch.tensor(gradient.reshape(-1, p.shape[-1]).T.copy())
        mine.step()
        other.step()
        for p, t in zip(ours, theirs, strict=True):
            got = p.numpy().reshape(-1, p.shape[-1]).T
            assert relative_error(got, t.detach().numpy()) < tolerances.TORCH_MUON


STEPS = 24


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda o: optim.StepLR(o, 4, gamma=0.3), lambda o: torch.optim.lr_scheduler.StepLR(o, 4, gamma=0.3)),
        (
            lambda o: optim.MultiStepLR(o, [7, 3, 3], 0.3),
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [7, 3, 3], 0.3),
        ),
        (lambda o: optim.ExponentialLR(o, 0.8), lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.8)),
        (
            lambda o: optim.CosineAnnealingLR(o, 12, eta_min=0.05),
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 12, eta_min=0.05),
        ),
        (lambda o: optim.CosineAnnealingLR(o, 5), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5)),
        (lambda o: optim.ConstantLR(o), lambda o: torch.optim.lr_scheduler.ConstantLR(o)),
        (lambda o: optim.ConstantLR(o, 0.2, 7), lambda o: torch.optim.lr_scheduler.ConstantLR(o, 0.2, 7)),
        (
            lambda o: optim.WarmupLR(o, 5),
            lambda o: torch.optim.lr_scheduler.LinearLR(o, start_factor=0.2, total_iters=4),
        ),
        *(
            (
                lambda o, options=options: optim.OneCycleLR(o, [0.7, 0.2], **options),
                lambda o, options=options: torch.optim.lr_scheduler.OneCycleLR(
                    o, [0.7, 0.2], **options, cycle_momentum=False
                ),
            )
            for options in (
                {"total_steps": STEPS},
                {"total_steps": STEPS, "pct_start": 0.0},
                {"total_steps": STEPS, "pct_start": 1.0},
                {"total_steps": STEPS, "pct_start": 0.5, "div_factor": 3.0, "final_div_factor": 7.0},
                {"total_steps": 10 * STEPS, "pct_start": 0.06},
            )
        ),
    ],
)
def test_schedules_are_pytorchs(ours, theirs):
    mine = optim.SGD([{"params": [parameter(np.zeros(2, np.float32))], "lr": lr} for lr in (0.5, 0.1)], lr=1)
    other = torch.optim.SGD([{"params": [torch.zeros(2, requires_grad=True)], "lr": lr} for lr in (0.5, 0.1)])
    schedule, torch_schedule = ours(mine), theirs(other)
    for step in range(STEPS):
        if step:
            other.step()
            schedule.step()
            torch_schedule.step()
        expected = [group["lr"] for group in other.param_groups]
        assert [group["lr"] for group in mine.groups] == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
@pytest.mark.parametrize(("patience", "cooldown", "min_lr"), [(0, 0, 0.0), (2, 0, [0.01, 0.002]), (1, 3, 0.01)])
def test_rates_fall_by_a_metric_as_pytorchs(rng, mode, threshold_mode, patience, cooldown, min_lr):
    mine = optim.SGD([{"params": [parameter(np.zeros(2, np.float32))], "lr": lr} for lr in (0.5, 0.1)], lr=1)
    other = torch.optim.SGD([{"params": [torch.zeros(2, requires_grad=True)], "lr": lr} for lr in (0.5, 0.1)])
    options = mode, 0.3, patience, 0.05, threshold_mode, cooldown, min_lr, 1e-5
    schedule = optim.ReduceLROnPlateau(mine, *options)
    torch_schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(other, *options)
    for metric in [*rng.normal(size=20), *(1 + rng.normal(size=20)), np.nan, np.inf, -np.inf, 0.0, 0.0]:
        schedule.step(metric)
        torch_schedule.step(metric)
        assert [g["lr"] for g in mine.groups] == pytest.approx([g["lr"] for g in other.param_groups], rel=1e-9)


def torch_lenet(model):
    """PyTorch's layers with the values of our lenet, flattening rows, columns, channels as we do."""
    layers = []
    for layer in model:
        match layer:
            case nn.Conv2d():
                kh, kw, c, o = layer.weight.shape
                made = torch.nn.Conv2d(c, o, (kh, kw), padding="same" if layer.padding == "same" else 0)
                made.weight.data = torch.tensor(layer.weight.numpy().transpose(3, 2, 0, 1).copy())
            case nn.Linear():
                made = torch.nn.Linear(*layer.weight.shape)
                made.weight.data = torch.tensor(layer.weight.numpy().T.copy())
            case nn.MaxPool2d():
                layers.append(torch.nn.MaxPool2d(layer.kernel_size))
                continue
            case _:
                layers.append(lambda x: x.permute(0, 2, 3, 1).flatten(1))
                continue
        made.bias.data = torch.tensor(layer.bias.numpy().copy())
        layers.append(made)
        if layer.activation is not None:
            layers.append(torch.nn.ReLU())
    parameters = [p for layer in layers if isinstance(layer, torch.nn.Module) for p in layer.parameters()]

    def forward(x):
        for layer in layers:
            x = layer(x)
        return x

    return forward, parameters


def test_the_loss_curve_of_40_steps_of_lenet_is_pytorchs(backend, rng):
    digits, labels = gp.data.digits(split="train")[:256]
    images = np.pad(np.kron(digits[..., 0] / np.float32(255), np.ones((3, 3))), ((0, 0), (2, 2), (2, 2)))[..., None]
    images, size = images.astype(np.float32), 64
    model = gp.models.lenet().to(backend)
    theirs, parameters = torch_lenet(model)
    options = {"lr": 0.005, "momentum": 0.9}  # curves that add up in other orders part from step 45 on, at 0.02 from 20
    mine, other = optim.SGD(model.parameters(), **options), torch.optim.SGD(parameters, **options)
    curve, torch_curve = [], []
    for step in range(40):
        batch = slice(step % 4 * size, step % 4 * size + size)
        mine.zero_grad()
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        mine.step()
        curve.append(loss.item())
        other.zero_grad()
        logits = theirs(torch.tensor(images[batch].transpose(0, 3, 1, 2).copy()))
        torch_loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels[batch]))
        torch_loss.backward()
        other.step()
        torch_curve.append(torch_loss.item())
    assert curve[-1] < curve[0]
    np.testing.assert_allclose(curve, torch_curve, rtol=tolerances.TORCH_LOSS_CURVE)
