"""Losses of embeddings: values by their definitions, gradients by finite differences."""

import numpy as np
import pytest
import tolerances
from helpers import check_gradients, same

import gpunet as gp
from gpunet import functional as F


def test_squared_distances_are_those_of_all_pairs(backend, dtype, rng):
    a, b = rng.normal(size=(4, 7)).astype(dtype), rng.normal(size=(5, 7)).astype(dtype)
    found = F.squared_distances(gp.tensor(a, backend=backend), gp.tensor(b, backend=backend))
    same(found.numpy(), np.square(a[:, None].astype(float) - b[None]).sum(axis=2), tolerances.ORACLE)
    check_gradients(F.squared_distances, [a, b], backend=backend, rng=rng)


def test_contrastive_loss_pulls_pairs_of_one_class_and_pushes_those_of_two_out_of_the_margin(backend, dtype, rng):
    a, b, same_class = rng.normal(size=(6, 3)), rng.normal(size=(6, 3)), np.array([1, 0, 1, 0, 0, 1])
    b[3] = a[3] + 0.01
    a, b = a.astype(dtype), b.astype(dtype)
    d = np.sqrt(np.square(a.astype(float) - b).sum(axis=1))
    expected = np.where(same_class, d**2, np.maximum(1.5 - d, 0) ** 2).mean()
    loss = F.contrastive_loss(gp.tensor(a, backend=backend), gp.tensor(b, backend=backend), same_class, margin=1.5)
    same(loss.numpy(), expected, tolerances.BACKENDS)
    check_gradients(lambda a, b: F.contrastive_loss(a, b, same_class, margin=1.5), [a, b], backend=backend, rng=rng)


def test_contrastive_loss_of_equal_embeddings_has_a_finite_gradient(backend):
    a = gp.tensor(np.ones((2, 3), np.float32), backend=backend, requires_grad=True)
    F.contrastive_loss(a, gp.tensor(np.ones((2, 3), np.float32), backend=backend), [0, 1]).backward()
    assert np.isfinite(backend.to_numpy(a.grad)).all()


def test_triplet_loss_is_hinged_at_the_margin(backend, dtype, rng):
    anchor, positive, negative = (rng.normal(size=(8, 3)).astype(dtype) for _ in range(3))
    terms = np.square(anchor.astype(float) - positive).sum(1) - np.square(anchor.astype(float) - negative).sum(1) + 0.7
    assert (terms > 0.01).any()
    assert (terms < -0.01).any()
    found = F.triplet_loss(*(gp.tensor(x, backend=backend) for x in (anchor, positive, negative)), margin=0.7)
    same(found.numpy(), np.maximum(terms, 0).mean(), tolerances.BACKENDS)
    check_gradients(lambda *x: F.triplet_loss(*x, margin=0.7), [anchor, positive, negative], backend=backend, rng=rng)


@pytest.mark.parametrize("views", [2, 3])
def test_all_pairs_loss_is_the_mean_over_pairs_of_views(backend, dtype, rng, views):
    e = rng.normal(size=(views, 4, 5)).astype(dtype)
    terms = []
    for q in range(views):
        for s in set(range(views)) - {q}:
            logits = -np.square(e[q].astype(float)[:, None] - e[s][None]).sum(axis=2)
            terms += list(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits))
    flat = e.reshape(-1, 5)
    loss = F.all_pairs_loss(gp.tensor(flat, backend=backend), views)
    same(loss.numpy(), np.mean(terms), tolerances.BACKENDS)
    check_gradients(lambda x: F.all_pairs_loss(x, views), [flat], backend=backend, rng=rng)


def test_what_does_not_fit_raises():
    a, b = gp.tensor(np.ones((4, 3))), gp.tensor(np.ones((4, 2)))
    with pytest.raises(ValueError, match=r"squared_distances: takes a \(M, D\) and b \(P, D\)"):
        F.squared_distances(a, b)
    with pytest.raises(
        ValueError, match=r"contrastive_loss: embeddings must all be \(N, D\), got \(4, 3\) and \(4, 2\)"
    ):
        F.contrastive_loss(a, b, np.ones(4))
    with pytest.raises(ValueError, match=r"contrastive_loss: same must be \(4,\) of 0 and 1, got shape \(3,\)"):
        F.contrastive_loss(a, a, np.ones(3))
    with pytest.raises(ValueError, match="contrastive_loss: same must be of 0 and 1, got 0 to 2"):
        F.contrastive_loss(a, a, [0, 1, 2, 0])
    with pytest.raises(ValueError, match="triplet_loss: margin is 0 but must be positive"):
        F.triplet_loss(a, a, a, margin=0)
    with pytest.raises(ValueError, match=r"all_pairs_loss: embeddings are \(4, 3\) but take"):
        F.all_pairs_loss(a, 3)
