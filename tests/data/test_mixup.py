"""Mixed images and labels."""

import numpy as np
import pytest
from helpers.small_nets import plain_net

from gpunet import data, optim
from gpunet.train import Trainer


def test_mixup_shares_are_drawn_from_beta():
    stats = pytest.importorskip("scipy.stats")
    from gpunet.data.mixup import symmetric_beta

    u, v = np.random.default_rng(0).uniform(size=(2, 20_000))
    for alpha in (0.2, 0.5, 1.0, 3.0):
        assert stats.kstest(symmetric_beta(u, v, alpha), stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_mixup_mixes_images_and_labels_alike_and_by_image_not_by_place(rng):
    x, y = rng.normal(size=(9, 4, 5, 1)).astype(np.float32), rng.integers(0, 3, 9)
    mixup, indices = data.Mixup(3, alpha=1.0), np.arange(20, 29)
    new, soft = mixup((x, y), indices=indices, epoch=2, seed=5)
    assert new.dtype == soft.dtype == np.float32
    np.testing.assert_allclose(soft.sum(axis=1), 1, rtol=1e-6)
    turned = rng.permutation(9)
    again, again_soft = mixup((x[turned], y[turned]), indices=indices[turned], epoch=2, seed=5)
    np.testing.assert_array_equal(again, new[turned])
    np.testing.assert_array_equal(again_soft, soft[turned])
    # each is a mix of itself and one other, by the share that its label has
    for i in range(9):
        fits = []
        for j in set(range(9)) - {i}:
            direction = (x[j] - x[i]).ravel()
            share = float((new[i] - x[i]).ravel() @ direction / (direction @ direction))
            mixed = (1 - share) * np.eye(3)[y[i]] + share * np.eye(3)[y[j]]
            fits.append(np.abs(new[i] - x[i] - share * (x[j] - x[i])).max() + np.abs(soft[i] - mixed).max())
        assert min(fits) < 1e-5
    other, _ = mixup((x, y), indices=indices, epoch=3, seed=5)
    assert not np.array_equal(other, new)


def test_mixup_trains_with_the_same_loss_and_metrics(backend, rng):
    x, y = rng.normal(size=(24, 6, 6, 1)).astype(np.float32), rng.integers(0, 4, 24)
    loader = data.DataLoader(data.ArrayDataset(x, y), 8, shuffle=True, transform=data.Mixup(4), prefetch=0)
    model = plain_net().to(backend)
    trainer = Trainer(model, optim.SGD(model.parameters(), lr=0.05, momentum=0.9), backend=backend, progress=False)
    history = trainer.fit(loader, 4, valid=[(x, y)])
    assert history["loss"][-1] < history["loss"][0]
    assert set(history.rows[0]) >= {"accuracy", "valid_accuracy"}


def test_mixup_takes_floats_and_labels(rng):
    x, y = np.zeros((4, 2, 2, 1), np.uint8), np.zeros(4, int)
    with pytest.raises(TypeError, match="Mixup: takes .* after Normalize; got 2 arrays, uint8"):
        data.Mixup(3)((x, y), indices=np.arange(4), epoch=0, seed=0)
    with pytest.raises(ValueError, match=r"Mixup: labels must be integers \(N,\), got float32 \(4,\)"):
        data.Mixup(3)((x.astype(np.float32), y.astype(np.float32)), indices=np.arange(4), epoch=0, seed=0)
    with pytest.raises(ValueError, match="Mixup: labels must be from 0 to 2, got 0 to 3"):
        data.Mixup(3)((x.astype(np.float32), np.arange(4)), indices=np.arange(4), epoch=0, seed=0)
    with pytest.raises(ValueError, match="Mixup: alpha is 0 but must be positive"):
        data.Mixup(3, 0)
    with pytest.raises(ValueError, match="Mixup: alpha is 'a' but must be positive, and finite"):
        data.Mixup(3, "a")
