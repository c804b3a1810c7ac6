import re
from functools import partial

import numpy as np
import pytest
import tolerances
from helpers import host, same

import gpunet as gp
from gpunet import functional as F
from gpunet import nn, optim
from gpunet.autograd import parameter

SHAPES = [(3, 1, 2, 5), (5,), (7, 4)]


def made(backend, rng, dtype, shapes=SHAPES):
    parameters = [parameter(rng.normal(size=s).astype(dtype)) for s in shapes]
    for p in parameters:
        p.move(backend)
    return parameters


def give(parameters, grads):
    """Set gradients as a backward pass would."""
    for p, g in zip(parameters, grads, strict=True):
        p.grad = None if g is None else p.backend.asarray(g.astype(p.dtype))


def run(optimizer, parameters, grads):
    for step in grads:
        optimizer.zero_grad()
        give(parameters, step)
        optimizer.step()


def sgd(w, grads, *, lr, momentum=0.0, nesterov=False, weight_decay=0.0, l1=0.0):
    v = np.zeros_like(w)
    for g in grads:
        g = g + weight_decay * w + l1 * np.sign(w)
        v = momentum * v + g
        w = w - lr * (g + momentum * v if nesterov else v)
    return w


def adam(w, grads, *, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled_weight_decay=False):
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, 1):
        if decoupled_weight_decay:
            w = w - lr * weight_decay * w
        else:
            g = g + weight_decay * w
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
        w = w - lr * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
    return w


def adamw(w, grads, weight_decay=0.01, **options):
    return adam(w, grads, weight_decay=weight_decay, decoupled_weight_decay=True, **options)


def decayed(w, g, lr, weight_decay, decoupled_weight_decay=False, l1=0.0):
    """(w', g) as every rule begins."""
    w = w - lr * weight_decay * w if decoupled_weight_decay else w
    return w, g + l1 * np.sign(w) + (0 if decoupled_weight_decay else weight_decay * w)


def rmsprop(w, grads, *, lr=0.01, alpha=0.99, eps=1e-8, momentum=0.0, weight_decay=0.0, **decay):
    square, v = np.zeros_like(w), np.zeros_like(w)
    for g in grads:
        w, g = decayed(w, g, lr, weight_decay, **decay)
        square = alpha * square + (1 - alpha) * g**2
        v = momentum * v + g / (np.sqrt(square) + eps)
        w = w - lr * v
    return w


def adagrad(w, grads, *, lr=0.01, eps=1e-10, weight_decay=0.0, **decay):
    total = np.zeros_like(w)
    for g in grads:
        w, g = decayed(w, g, lr, weight_decay, **decay)
        total = total + g**2
        w = w - lr * g / (np.sqrt(total) + eps)
    return w


def lion(w, grads, *, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, decoupled_weight_decay=True):
    m = np.zeros_like(w)
    for g in grads:
        w, g = decayed(w, g, lr, weight_decay, decoupled_weight_decay)
        w = w - lr * np.sign(betas[0] * m + (1 - betas[0]) * g)
        m = betas[1] * m + (1 - betas[1]) * g
    return w


def muon(
    w, grads, *, lr=0.02, momentum=0.95, nesterov=True, adam_lr=3e-4, weight_decay=0.0, ns_steps=5, normalize=False
):
    if w.ndim < 2:
        return adamw(w, grads, lr=adam_lr, betas=(0.9, 0.95), weight_decay=weight_decay)
    m, matrix = np.zeros_like(w), (-1, w.shape[-1])
    for g in grads:
        if normalize:
            w = w * np.sqrt(w.shape[-1] / np.sum(w**2))
        m = momentum * m + (1 - momentum) * g
        step = momentum * m + (1 - momentum) * g if nesterov else m
        u, s, v = np.linalg.svd(step.reshape(matrix), full_matrices=False)
        s = s / np.linalg.norm(s)
        for _ in range(ns_steps):  # on the singular values, which is all that the iteration changes
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        direction = ((u * s) @ v).reshape(w.shape) * max(1, w.shape[-1] / u.shape[0]) ** 0.5
        w = (1 - lr * weight_decay) * w - lr * direction
    return w


CASES = [
    (optim.RMSprop, rmsprop, {}),
    (optim.RMSprop, rmsprop, {"lr": 0.03, "alpha": 0.9, "eps": 1e-3, "momentum": 0.8, "weight_decay": 0.1, "l1": 0.03}),
    (optim.RMSprop, rmsprop, {"weight_decay": 0.3, "decoupled_weight_decay": True}),
    (optim.Adagrad, adagrad, {}),
    (optim.Adagrad, adagrad, {"lr": 0.1, "eps": 1e-2, "weight_decay": 0.1, "l1": 0.03, "decoupled_weight_decay": True}),
    (optim.Lion, lion, {}),
    (optim.Lion, lion, {"lr": 0.03, "betas": (0.5, 0.8), "weight_decay": 0.3}),
    (optim.Lion, lion, {"lr": 0.03, "weight_decay": 0.3, "decoupled_weight_decay": False}),
    (optim.Muon, muon, {}),
    (optim.Muon, muon, {"lr": 0.1, "momentum": 0.5, "nesterov": False, "weight_decay": 0.3, "adam_lr": 0.1}),
    (optim.Muon, muon, {"lr": 0.2, "ns_steps": 3, "normalize": True, "weight_decay": 0.3}),
    (optim.SGD, sgd, {"lr": 0.1}),
    (optim.SGD, sgd, {"lr": 0.1, "momentum": 0.9}),
    (optim.SGD, sgd, {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.05}),
    (optim.SGD, sgd, {"lr": 0.1, "weight_decay": 0.2, "l1": 0.03}),
    (optim.Adam, adam, {}),
    (optim.Adam, adam, {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    (optim.AdamW, adamw, {"lr": 0.05}),
    (optim.AdamW, adamw, {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.3}),
]


@pytest.mark.parametrize(("kind", "formula", "options"), CASES)
def test_updates_follow_their_formulas(backend, dtype, rng, kind, formula, options):
    parameters = made(backend, rng, dtype)
    start = [p.numpy().astype(np.float64) for p in parameters]
    grads = [[rng.normal(size=s).astype(dtype) for s in SHAPES] for _ in range(10)]
    run(kind(parameters, **options), parameters, grads)
    for i, p in enumerate(parameters):
        same(p.numpy(), formula(start[i], [step[i].astype(np.float64) for step in grads], **options), tolerances.UPDATE)


def test_clipping_scales_all_gradients_by_their_common_norm(backend, dtype, rng):
    parameters = made(backend, rng, dtype)
    start = [p.numpy().copy() for p in parameters]
    grads = [rng.normal(size=s).astype(dtype) for s in SHAPES]
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grads))
    optimizer = optim.SGD(parameters, lr=1.0, clip_norm=0.5)
    run(optimizer, parameters, [grads])
    for p, w, g in zip(parameters, start, grads, strict=True):
        same(p.numpy(), w - g * (0.5 / (norm + 1e-6)), tolerances.UPDATE)
    np.testing.assert_allclose(host(optimizer.grad_norm, backend), [norm, 0.5 / (norm + 1e-6)], rtol=1e-5)


def test_clipping_leaves_small_gradients_alone(backend, dtype, rng):
    plain, clipped = (made(backend, np.random.default_rng(1), dtype) for _ in range(2))
    grads = [[rng.normal(size=s) for s in SHAPES]]
    run(optim.SGD(plain, lr=0.1), plain, grads)
    run(optim.SGD(clipped, lr=0.1, clip_norm=1e4), clipped, grads)
    for one, other in zip(plain, clipped, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_groups_have_their_own_hyper_parameters(backend, dtype, rng):
    parameters = made(backend, rng, dtype)
    start = [p.numpy().astype(np.float64) for p in parameters]
    grads = [[rng.normal(size=s).astype(dtype) for s in SHAPES] for _ in range(3)]
    groups = [{"params": parameters[:1], "weight_decay": 0.5}, {"params": parameters[1:], "lr": 0.01}]
    optimizer = optim.SGD(groups, lr=0.1, momentum=0.9)
    assert [(g["lr"], g["weight_decay"], g["momentum"]) for g in optimizer.groups] == [(0.1, 0.5, 0.9), (0.01, 0, 0.9)]
    run(optimizer, parameters, grads)
    for i, options in enumerate([{"lr": 0.1, "weight_decay": 0.5}, {"lr": 0.01}, {"lr": 0.01}]):
        expected = sgd(start[i], [step[i].astype(np.float64) for step in grads], momentum=0.9, **options)
        same(parameters[i].numpy(), expected, tolerances.UPDATE)


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam, optim.AdamW])
def test_a_parameter_without_a_gradient_is_skipped(backend, dtype, rng, kind):
    options = {"lr": 0.1, "weight_decay": 0.1} | ({"momentum": 0.9} if kind is optim.SGD else {})
    formula = {optim.SGD: sgd, optim.Adam: adam, optim.AdamW: adamw}[kind]
    parameters = made(backend, rng, dtype)
    start = [p.numpy().astype(np.float64) for p in parameters]
    optimizer = kind(parameters, **options)
    optimizer.step()  # no gradients at all
    np.testing.assert_array_equal(parameters[0].numpy(), start[0].astype(dtype))
    grads = [[rng.normal(size=s).astype(dtype) for s in SHAPES] for _ in range(4)]
    for t in (0, 2):
        grads[t][1] = None  # no decay either, and its own count of updates
    run(optimizer, parameters, grads)
    assert optimizer.steps.tolist() == [4, 2, 4]
    for i, p in enumerate(parameters):
        given = [step[i].astype(np.float64) for step in grads if step[i] is not None]
        same(p.numpy(), formula(start[i], given, **options), tolerances.UPDATE)


def test_muon_splits_groups_into_matrices_and_the_rest(backend, rng):
    filters, bias, dense = made(backend, rng, np.float32)
    optimizer = optim.Muon(
        [{"params": [filters, bias], "lr": 0.5}, {"params": [dense], "rule": "adamw", "lr": 0.2}], adam_lr=0.1
    )
    got = [(g["rule"], g["lr"], [p.shape for p in g["params"]]) for g in optimizer.groups]
    assert got == [("muon", 0.5, [filters.shape]), ("adamw", 0.1, [bias.shape]), ("adamw", 0.2, [dense.shape])]
    start = dense.numpy().astype(np.float64)
    grads = [[rng.normal(size=p.shape).astype(np.float32) for p in (filters, bias, dense)] for _ in range(3)]
    run(optimizer, [filters, bias, dense], grads)
    expected = adamw(start, [g[2].astype(np.float64) for g in grads], lr=0.2, betas=(0.9, 0.95), weight_decay=0.0)
    same(dense.numpy(), expected, tolerances.UPDATE)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.0, "nesterov": False, "weight_decay": 0.3},
        {"momentum": 0.85, "weight_decay": 0.3, "decoupled_weight_decay": False},
        {"nesterov": False, "weight_decay": 0.3, "decoupled_weight_decay": False},
    ],
)
def test_a_group_of_muon_with_the_rule_sgd_is_updated_as_sgd_does_it(backend, dtype, rng, options):
    mine = made(backend, rng, dtype)
    twins = [parameter(p.numpy()) for p in mine]
    for twin in twins:
        twin.move(backend)
    grads = [[rng.normal(size=s).astype(dtype) for s in SHAPES] for _ in range(5)]
    kept = {"momentum": 0.95, "nesterov": True, "decoupled_weight_decay": True, **options}
    sgd = optim.SGD(twins, lr=0.1, **kept)
    run(optim.Muon([{"params": mine, "rule": "sgd", **options}], lr=0.1), mine, grads)
    run(sgd, twins, grads)
    for p, twin in zip(mine, twins, strict=True):
        same(p.numpy(), twin.numpy().astype(np.float64), tolerances.UPDATE)


def test_muon_takes_up_a_state_from_before_it_had_all_its_options(backend, rng):
    parameters = made(backend, rng, np.float32)
    optimizer = optim.Muon(parameters, lr=0.1)
    state = optimizer.state_dict()
    for group in state["groups"]:
        group.pop("ns_steps"), group.pop("normalize")
    for group in optimizer.groups:
        group["ns_steps"] = 2
    optimizer.load_state_dict(state)
    assert [(group["ns_steps"], group["normalize"]) for group in optimizer.groups] == [(5, False)] * 2


@pytest.mark.parametrize(
    "make",
    [
        lambda p, **options: optim.SGD(p, 0.1, momentum=0.9, **options),
        lambda p, **options: optim.Adagrad(p, 0.5, **options),
        lambda p, **options: optim.Muon(p, 0.5, **options),
    ],
)
def test_max_norm_scales_each_units_incoming_weights_after_the_step(backend, dtype, rng, make):
    free, held = made(backend, rng, dtype), []
    for p in free:
        held.append(parameter(p.numpy().copy()))
        held[-1].move(backend)
    grads = [[rng.normal(size=s).astype(dtype) for s in SHAPES]]
    limit = 2.0
    run(make(free), free, grads)
    run(make([{"params": held[:2], "max_norm": limit}, {"params": held[2:]}]), held, grads)
    filters = free[0].numpy().reshape(-1, 5).astype(np.float64)
    norms = np.linalg.norm(filters, axis=0)
    assert 0 < (norms > limit).sum() < 5
    expected = filters * np.minimum(1, limit / norms)
    same(held[0].numpy().reshape(-1, 5), expected, tolerances.UPDATE)
    for i in (1, 2):  # a bias, and another group
        np.testing.assert_array_equal(held[i].numpy(), free[i].numpy())


def test_one_large_step_and_many_small_ones_train_a_net(backend, rng):
    x, y = rng.normal(size=(32, 5)).astype(np.float32), rng.normal(size=(32, 2)).astype(np.float32)
    for make in (lambda p: optim.SGD(p, lr=0.1, momentum=0.9), lambda p: optim.Adam(p, lr=0.02)):
        model = nn.Sequential(nn.Linear(5, 16, activation="tanh"), nn.Linear(16, 2)).to(backend)
        optimizer, losses = make(model.parameters()), []
        for _ in range(60):
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.4 * losses[0]


@pytest.mark.parametrize("make", [
    lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    lambda p: optim.SGD(p, lr=0.1),
    lambda p: optim.Adam(p, lr=0.01, weight_decay=0.1),
    lambda p: optim.AdamW([{"params": p[:1], "lr": 0.1}, {"params": p[1:], "betas": (0.5, 0.9)}]),
    lambda p: optim.RMSprop(p, momentum=0.9),
    lambda p: optim.RMSprop(p, decoupled_weight_decay=True, weight_decay=0.1, max_norm=0.5),
    lambda p: optim.Adagrad(p, 0.1),
    lambda p: optim.Lion(p, 0.1),
    lambda p: optim.Muon(p),
])  # fmt: skip
def test_training_continues_bit_for_bit_from_a_loaded_state(backend, dtype, rng, make):
    grads = [[rng.normal(size=s) for s in SHAPES] for _ in range(6)]
    grads[1][2] = None
    whole = made(backend, np.random.default_rng(1), dtype)
    optimizer = make(whole)
    run(optimizer, whole, grads[:3])
    optimizer.groups[0]["lr"] = 0.07
    state = optimizer.state_dict()
    resumed = [parameter(p.numpy().copy()) for p in whole]
    for p in resumed:
        p.move(backend)
    run(optimizer, whole, grads[3:])
    again = make(resumed)
    again.load_state_dict(state)
    run(again, resumed, grads[3:])
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert again.groups[0]["lr"] == 0.07
    assert again.steps.tolist() == optimizer.steps.tolist()


def test_state_is_a_copy_on_the_host(backend, dtype, rng):
    parameters = made(backend, rng, dtype)
    optimizer = optim.SGD(parameters, lr=0.1, momentum=0.9)
    run(optimizer, parameters, [[rng.normal(size=s) for s in SHAPES]])
    state = optimizer.state_dict()
    kept = state["slots"]["momentum"][0].copy()
    assert kept.shape == SHAPES[0]
    run(optimizer, parameters, [[rng.normal(size=s) for s in SHAPES]])
    np.testing.assert_array_equal(state["slots"]["momentum"][0], kept)


def test_a_state_of_another_optimizer_or_model_is_refused_and_nothing_changes(backend, dtype, rng):
    optimizer = optim.SGD(made(backend, rng, dtype), lr=0.1, momentum=0.9)
    before = optimizer.state_dict()
    others = {
        "SGD: the state's slots ['mean', 'square'] differ from ['momentum'] here": optim.Adam(
            made(backend, rng, dtype)
        ),
        "SGD: the state's number of parameters 2 differ from 3 here": optim.SGD(
            made(backend, rng, dtype, SHAPES[:2]), lr=5, momentum=0.5
        ),
        "SGD: the state's momentum has shapes [(3, 1, 2, 5), (5,), (4, 7)] but takes [(3, 1, 2, 5), (5,), (7, 4)]": optim.SGD(
            made(backend, rng, dtype, [*SHAPES[:2], (4, 7)]), lr=5, momentum=0.5
        ),
    }
    for message, other in others.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            optimizer.load_state_dict(other.state_dict())
    for broken in (
        {},
        {**before, "slots": {"momentum": before["slots"]["momentum"][:2]}},
        {**before, "groups": [{**before["groups"][0], "lr": -5}]},
        {**before, "groups": [{"lr": 0.1}]},
        {**before, "options": {"clip_norm": 1.0, "nesterov": False}},
    ):
        with pytest.raises(ValueError, match="^SGD: "):
            optimizer.load_state_dict(broken)
    after = optimizer.state_dict()
    assert after["groups"] == before["groups"]
    assert after["steps"] == before["steps"]


def test_a_parameter_in_two_optimizers_raises(backend, rng):
    parameters = made(backend, rng, np.float32)
    first = optim.SGD(parameters[:2], lr=0.1)
    with pytest.raises(ValueError, match=r"Adam: another optimizer holds a parameter \(5,\)"):
        optim.Adam(parameters[1:])
    assert parameters[2].arena is None
    optim.Adam(parameters[2:])
    assert parameters[0].arena is first.arena


def test_a_shared_parameter_is_updated_once(backend, rng):
    (w,) = made(backend, rng, np.float32, [(3, 3)])
    start = w.numpy().copy()
    optimizer = optim.SGD([w, w], lr=0.1)
    assert len(optimizer.arena) == 1
    (w.sum() + w.sum()).backward()
    optimizer.step()
    np.testing.assert_allclose(w.numpy(), start - 0.2, rtol=1e-6)


def test_nan_gradients_show_in_the_parameters(backend, rng):
    for make in (lambda p: optim.SGD(p, lr=0.1), lambda p: optim.Adam(p), lambda p: optim.SGD(p, lr=0.1, clip_norm=1)):
        parameters = made(backend, rng, np.float32)
        grads = [np.ones(s, np.float32) for s in SHAPES]
        grads[1][2] = np.nan
        run(make(parameters), parameters, [grads])
        assert np.isnan(parameters[1].numpy()[2])


MISTAKES = [
    (lambda p: optim.RMSprop(p, alpha=1), ValueError, "RMSprop: alpha is 1 but must be at least 0 and below 1"),
    (lambda p: optim.RMSprop(p, eps=0), ValueError, "RMSprop: eps is 0 but must be positive"),
    (lambda p: optim.Adagrad(p, eps=-1), ValueError, "Adagrad: eps is -1 but must be positive"),
    (lambda p: optim.Lion(p, betas=(1, 0)), ValueError, "Lion: betas are (1, 0) but must be at least 0 and below 1"),
    (lambda p: optim.SGD(p, lr=0.1, max_norm=0), ValueError, "SGD: max_norm is 0 but must be positive"),
    (lambda p: optim.Muon(p, l1=0.1), ValueError, "Muon: takes only decoupled weight decay, no l1"),
    (
        lambda p: optim.Muon([{"params": p, "rule": "lbfgs"}]),
        ValueError,
        "Muon: rule is 'lbfgs' but takes 'muon', 'adamw', 'sgd' or None",
    ),
    (
        lambda p: optim.Muon([{"params": p, "rule": "muon"}]),
        ValueError,
        "Muon: a parameter (5,) is no matrix; give its group the rule 'adamw', 'sgd' or None",
    ),
    (
        lambda p: optim.Muon([{"params": p, "rule": "adamw", "adam_lr": 0.1}]),
        ValueError,
        "Muon: a group of rule 'adamw' takes no adam_lr; set its lr",
    ),
    (
        lambda p: optim.Muon(p, decoupled_weight_decay=False),
        ValueError,
        "Muon: takes only decoupled weight decay, no l1 and no decay added to the gradient",
    ),
    (
        lambda p: optim.Muon([{"params": p, "rule": "sgd", "l1": 0.1}]),
        ValueError,
        "Muon: takes only decoupled weight decay, no l1 and no decay added to the gradient",
    ),
    (lambda p: optim.Muon(p, ns_steps=0), ValueError, "Muon: ns_steps"),
    (lambda p: optim.Muon(p, adam_lr="a"), TypeError, "Muon: adam_lr is 'a' but must be a number"),
    (lambda p: optim.SGD(p, lr="a"), TypeError, "SGD: lr is 'a' but must be a number"),
    (lambda p: optim.SGD(p, lr=None), TypeError, "SGD: lr is None but must be a number"),
    (lambda p: optim.SGD(p, lr=0.1, max_norm="a"), TypeError, "SGD: max_norm is 'a' but must be a number"),
    (lambda p: optim.SGD(p, lr=0.1, clip_norm="a"), TypeError, "SGD: clip_norm is 'a' but must be a number"),
    (lambda p: optim.SGD([{"params": p, "momentum": "a"}], lr=0.1), TypeError, "SGD: momentum is 'a' but must be"),
    *(
        (partial(kind, betas=betas), TypeError, f"{kind.__name__}: betas are {betas!r} but must be a pair of numbers")
        for kind in (optim.Adam, optim.AdamW, optim.Lion, optim.Muon)
        for betas in (0.9, (0.9,), ("a", 0.9))
    ),
    *(
        (
            partial(kind, lr=0.1, weigth_decay=0.1, amsgrad=True),
            TypeError,
            f"{kind.__name__}: got amsgrad, weigth_decay but takes lr, {own}clip_norm, weight_decay, "
            f"decoupled_weight_decay, l1, max_norm",
        )
        for kind, own in (
            (optim.SGD, "momentum, nesterov, "),
            (optim.Adam, "betas, eps, "),
            (optim.AdamW, "betas, eps, "),
            (optim.RMSprop, "alpha, eps, momentum, "),
            (optim.Adagrad, "eps, "),
            (optim.Lion, "betas, "),
            (optim.Muon, "momentum, nesterov, ns_steps, normalize, adam_lr, betas, eps, "),
        )
    ),
    (lambda p: optim.Muon([]), ValueError, "Muon: got no parameters"),
    (lambda p: optim.SGD([], lr=0.1), ValueError, "SGD: got no parameters"),
    (lambda p: optim.SGD([{"params": []}], lr=0.1), ValueError, "SGD: got no parameters"),
    (lambda p: optim.SGD(p, lr=-1), ValueError, "SGD: lr is -1 but must be finite and not negative"),
    (lambda p: optim.SGD(p, lr=float("nan")), ValueError, "SGD: lr is nan but must be finite and not negative"),
    (lambda p: optim.SGD(p, lr=0.1, momentum=1), ValueError, "SGD: momentum is 1 but must be at least 0 and below 1"),
    (lambda p: optim.SGD(p, lr=0.1, nesterov=True), ValueError, "SGD: nesterov needs a momentum above 0"),
    (lambda p: optim.SGD(p, lr=0.1, l1=-1), ValueError, "SGD: l1 is -1 but must be finite and not negative"),
    (lambda p: optim.SGD(p, lr=0.1, weight_decay=-1), ValueError, "SGD: weight_decay is -1 but must be finite"),
    (lambda p: optim.SGD(p, lr=0.1, clip_norm=0), ValueError, "SGD: clip_norm is 0 but must be positive"),
    (
        lambda p: optim.Adam(p, betas=(0.9, 1)),
        ValueError,
        "Adam: betas are (0.9, 1) but must be at least 0 and below 1",
    ),
    (lambda p: optim.AdamW(p, eps=0), ValueError, "AdamW: eps is 0 but must be positive"),
    (
        lambda p: optim.SGD([{"params": p, "eps": 1}], lr=0.1),
        ValueError,
        "SGD: a group has no eps; it takes lr, momentum",
    ),
    (
        lambda p: optim.SGD([{"params": p}, {"params": p[:1]}], lr=0.1),
        ValueError,
        "SGD: a parameter of shape (3, 1, 2, 5) is in two groups",
    ),
    (lambda p: optim.SGD([gp.tensor([1.0])], lr=0.1), TypeError, "SGD: takes parameters, got Tensor"),
    (
        lambda p: optim.SGD([*p, parameter(np.ones(2))], lr=0.1),
        TypeError,
        "SGD: parameters are float32, float64 but must be of one dtype",
    ),
]


@pytest.mark.parametrize("i", range(len(MISTAKES)))
def test_a_mistake_is_named_and_holds_no_parameter(rng, i):
    make, kind, message = MISTAKES[i]
    parameters = made(gp.get_backend("numpy"), rng, np.float32)
    with pytest.raises(kind, match=re.escape(message)):
        make(parameters)
    assert all(p.arena is None for p in parameters)


def test_parameters_of_two_backends_are_refused(rng):
    here, there = (
        made(gp.get_backend("numpy"), rng, np.float32, [(2,)]),
        made(gp.get_backend("reference"), rng, np.float32, [(2,)]),
    )
    with pytest.raises(gp.BackendError, match="SGD: parameters are on numpy, reference but must be on one backend"):
        optim.SGD(here + there, lr=0.1)


def test_an_optimizer_may_be_made_between_forward_and_backward(rng):
    (weight,) = made(gp.get_backend("numpy"), rng, np.float32, [(3,)])
    loss = (weight * weight).sum()
    optim.SGD([weight], lr=0.1)
    loss.backward()
    np.testing.assert_allclose(weight.grad, 2 * weight.numpy())


def test_clipping_does_not_hide_a_gradient_norm_of_nan(rng):
    (weight,) = made(gp.get_backend("numpy"), rng, np.float32, [(3,)])
    optimizer = optim.SGD([weight], lr=0.1, clip_norm=1.0)
    (weight * np.float32(np.nan)).sum().backward()
    optimizer.step()
    assert np.isnan(optimizer.grad_norm).all()


def test_released_parameters_can_be_trained_by_another_optimizer(backend, dtype, rng):
    (weight,) = made(backend, rng, dtype, [(3,)])
    first = optim.SGD([weight], lr=0.5)
    weight.sum().backward()
    first.step()
    values = weight.numpy().copy()
    first.release()
    np.testing.assert_array_equal(weight.numpy(), values)
    second = optim.SGD([weight], lr=0.25)
    second.zero_grad()
    weight.sum().backward()
    second.step()
    np.testing.assert_allclose(weight.numpy(), values - 0.25, rtol=1e-6)
