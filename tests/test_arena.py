import numpy as np
import pytest
from helpers import host

import gpunet as gp
from gpunet import functional as F
from gpunet import optim
from gpunet.arena import ALIGNMENT, Arena
from gpunet.autograd import parameter

SHAPES = [(3, 3, 1, 5), (5,), (), (7, 11), (33,), (1, 32)]


def made(backend, rng, dtype=np.float32):
    parameters = [parameter(rng.normal(size=s).astype(dtype)) for s in SHAPES]
    for p in parameters:
        p.move(backend)
    return parameters


def gaps(arena):
    inside = np.zeros(arena.size, bool)
    for start, stop in arena.bounds:
        inside[start:stop] = True
    return ~inside


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_segments_are_aligned_and_do_not_overlap(backend, dtype):
    if dtype not in backend.dtypes:
        pytest.skip(f"{backend.name} does not compute in {dtype}")
    arena = Arena(backend, SHAPES, dtype)
    assert ALIGNMENT == 128
    assert (arena.bounds[:, 0] * arena.dtype.itemsize % ALIGNMENT == 0).all()
    assert (arena.bounds[1:, 0] >= arena.bounds[:-1, 1]).all()
    assert (arena.bounds[:, 1] - arena.bounds[:, 0]).tolist() == [45, 5, 1, 77, 33, 32]
    assert arena.size * arena.dtype.itemsize % ALIGNMENT == 0
    assert [tuple(v.shape) for v in arena.views] == SHAPES
    assert len(arena) == len(SHAPES)


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam, optim.AdamW])
def test_gaps_stay_zero_through_updates(backend, rng, kind):
    parameters = made(backend, rng)
    options = {"momentum": 0.9, "l1": 0.01} if kind is optim.SGD else {}
    optimizer = kind(parameters, lr=0.1, weight_decay=0.1, clip_norm=1.0, **options)
    for _ in range(3):
        optimizer.zero_grad()
        loss = sum(((p * p).sum() for p in parameters), start=parameters[2])
        loss.backward()
        optimizer.step()
    arena = optimizer.arena
    assert gaps(arena).any()
    for name, flat in {"data": arena.data, "grad": arena.grad, **arena.slots}.items():
        assert not host(flat, backend)[gaps(arena)].any(), name
        assert host(flat, backend)[~gaps(arena)].any(), name


def test_parameters_keep_their_identity_and_values(backend, rng):
    parameters = made(backend, rng)
    values = [p.numpy().copy() for p in parameters]
    (parameters[0] * 2).sum().backward()
    optimizer = optim.SGD(parameters, lr=0.1)
    for i, (p, value) in enumerate(zip(parameters, values, strict=True)):
        assert p.arena is optimizer.arena
        np.testing.assert_array_equal(p.numpy(), value)
        np.testing.assert_array_equal(host(optimizer.arena.views[i], backend), value)
    np.testing.assert_array_equal(host(parameters[0].grad, backend), np.full((3, 3, 1, 5), 2))  # from before
    assert parameters[1].grad is None


def test_writing_a_parameter_writes_the_arena(backend, rng):
    parameters = made(backend, rng)
    optimizer = optim.SGD(parameters, lr=0.1)
    version = optimizer.arena.version
    parameters[1].data = backend.full((5,), 7, np.float32)
    start, stop = optimizer.arena.bounds[1]
    assert (host(optimizer.arena.data, backend)[start:stop] == 7).all()
    assert optimizer.arena.version > version


def test_neighbours_of_equal_keys_are_one_run(backend):
    arena = Arena(backend, [(5,), (6,), (7,), (8,)], np.float32)

    def runs(*written):
        arena.written = list(written)
        bounds, first = arena.runs("aabb")
        return bounds.tolist(), first

    assert runs(True, True, True, True) == ([[0, 38], [64, 104]], [0, 2])
    assert runs(True, False, True, True) == ([[0, 5], [64, 104]], [0, 2])
    assert runs(True, False, False, False) == ([[0, 5]], [0])
    assert runs(False, False, False, False) == ([], [])
    assert arena.runs("aabb")[0].shape == (0, 2)


def test_moving_a_model_moves_data_gradients_and_slots(backend, rng):
    target = gp.get_backend("reference" if backend.name != "reference" else "numpy")
    stay, go = (gp.nn.Linear(4, 3).to(backend) for _ in range(2))
    go.load_state_dict(stay.state_dict())
    pairs = [(m, optim.Adam(m.parameters(), lr=0.1)) for m in (stay, go)]
    x = rng.normal(size=(5, 4)).astype(np.float32)

    def train(model, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            F.mse_loss(model(x), np.ones((5, 3))).backward()
            optimizer.step()

    for model, optimizer in pairs:
        train(model, optimizer, 2)
    old = host(go.weight, backend)
    before = old.copy()
    go.to(target)
    assert go.weight.backend is target
    assert pairs[1][1].arena.backend is target
    assert target.owns(go.weight.data)
    assert target.owns(go.weight.grad)
    np.testing.assert_array_equal(host(go.weight.grad, target), host(stay.weight.grad, backend))
    for model, optimizer in pairs:
        train(model, optimizer, 3)
    np.testing.assert_array_equal(old, before)  # nothing is shared with the place it left
    np.testing.assert_allclose(go.weight.numpy(), stay.weight.numpy(), rtol=1e-5)
    assert go.to(target) is go
