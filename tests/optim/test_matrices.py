"""Max-norm and Muon change only parameters that are matrices of (fan in, units)."""

import copy

import numpy as np
import pytest

import gpunet as gp
from gpunet import nn, optim
from gpunet.autograd import parameter
from gpunet.nn.folding import fold_batch_norm
from gpunet.report.plan import _copied

LAYERS = [
    (lambda: nn.Conv2d(4, 6, 3, groups=2), {"weight"}),
    (lambda: nn.Linear(5, 3), {"weight"}),
    (lambda: nn.ConvTranspose2d(4, 3, 2), set()),
    (lambda: nn.LocallyConnected2d((5, 5, 2), 3, 3), set()),
    (lambda: nn.LayerNorm((4, 4, 3)), set()),
    (lambda: nn.LayerNorm((4, 3)), set()),
    (lambda: nn.LayerNorm((2, 4, 4, 3)), set()),
    (lambda: nn.BatchNorm2d(3), set()),
    (lambda: nn.PReLU(3), set()),
]


def stepped(layer, backend, make, **options):
    """The layer's values after one step along gradients of its own shapes."""
    layer = copy.deepcopy(layer).to(backend)
    optimizer = make(layer.parameters(), **options)
    rng = np.random.default_rng(1)
    for p in layer.parameters():
        p.grad = p.backend.asarray(rng.normal(size=p.shape).astype(np.float32))
    optimizer.step()
    return layer.state_dict()


@pytest.mark.parametrize(("make", "matrices"), LAYERS)
def test_max_norm_and_muon_take_only_matrices(backend, rng, make, matrices):
    layer = make()
    for p in layer.parameters():
        p.data = rng.normal(size=p.shape).astype(np.float32)
    free, held = (stepped(layer, backend, optim.SGD, lr=0.1, max_norm=norm) for norm in (None, 0.5))
    adamw, muon = (
        stepped(layer, backend, optim.AdamW, lr=0.1, betas=(0.9, 0.95), weight_decay=0.0),
        stepped(layer, backend, optim.Muon, lr=0.1, adam_lr=0.1),
    )
    for name, value in held.items():
        if "running" in name:
            continue
        if name in matrices:
            norms = np.linalg.norm(value.reshape(-1, value.shape[-1]).astype(np.float64), axis=0)
            np.testing.assert_allclose(norms, 0.5, rtol=1e-5)
            assert not np.allclose(muon[name], adamw[name])
        else:
            np.testing.assert_array_equal(value, free[name])
            np.testing.assert_array_equal(muon[name], adamw[name])


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 4, 5), (2, 3, 4, 5), (1, 2, 3, 4, 5), (1, 1, 2, 3, 4, 5)])
def test_a_parameter_made_by_hand_is_a_matrix_with_two_or_four_axes_unless_told(shape):
    assert parameter(np.ones(shape)).matrix == (len(shape) in (2, 4))
    for matrix in (False, True):
        assert parameter(np.ones(shape), matrix=matrix).matrix == matrix


def test_a_matrix_stays_one_wherever_its_model_goes(backend):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 3, 2), nn.LayerNorm((4, 3)))
    expected = [True, False, False, False, False, False]
    there = gp.get_backend("reference")
    copies = [copy.deepcopy(model), fold_batch_norm(model), _copied(model, there)]
    moved = [copy.deepcopy(model).to(backend), copy.deepcopy(model).astype(np.float64)]
    for twin in (model, *copies, *moved):
        twin.load_state_dict(model.state_dict())
        assert [p.matrix for p in twin.parameters()] == expected
        optimizer = optim.SGD(twin.parameters(), lr=0.1)
        optimizer.release()
        assert [p.matrix for p in twin.parameters()] == expected


def test_muon_refuses_its_rule_for_what_is_no_matrix():
    layer = nn.ConvTranspose2d(4, 3, 2)
    with pytest.raises(ValueError, match=r"Muon: a parameter \(2, 2, 3, 4\) is no matrix"):
        optim.Muon([{"params": [layer.weight], "rule": "muon"}])
