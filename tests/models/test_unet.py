from itertools import pairwise

import numpy as np
import pytest

import gpunet as gp
from gpunet import functional as F
from gpunet import models, optim


def block(before, after):
    return 9 * before * after + after + 9 * after * after + after


def test_unet_has_the_parameters_of_the_paper():
    channels = [64, 128, 256, 512, 1024]
    down = sum(block(c, o) for c, o in pairwise([1, *channels]))
    up = sum(4 * 2 * c * c + c + block(2 * c, c) for c in channels[:-1])
    model = models.UNet(1, 2, base_channels=64, depth=4)
    assert sum(p.size for p in model.parameters()) == down + up + 64 * 2 + 2 == 31_030_658


@pytest.mark.parametrize(("batch_norm", "upsample"), [(False, "transposed"), (True, "transposed"), (False, "bilinear")])
def test_unet_gives_each_pixel_its_logits_and_every_parameter_a_gradient(backend, rng, batch_norm, upsample):
    model = models.UNet(2, 3, base_channels=4, depth=2, batch_norm=batch_norm, upsample=upsample).to(backend)
    x, labels = rng.normal(size=(2, 12, 8, 2)).astype(np.float32), rng.integers(0, 3, (2, 12, 8))
    logits = model(x)
    assert logits.shape == (2, 12, 8, 3)
    F.cross_entropy(logits, labels).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_unet_names_the_ways_up_that_it_knows():
    with pytest.raises(ValueError, match="UNet: upsample is 'nearest' but takes one of transposed, bilinear"):
        models.UNet(upsample="nearest")


def test_unet_learns_to_tell_bright_from_dark_pixels(rng):
    x = rng.uniform(-1, 1, (8, 16, 16, 1)).astype(np.float32)
    labels = (x[..., 0] > 0).astype(np.int64)
    model = models.UNet(1, 2, base_channels=4, depth=2)
    trainer = gp.Trainer(model, optim.Adam(model.parameters(), lr=0.01), backend="numpy", progress=False)
    trainer.fit([(x, labels)] * 60, epochs=1)
    assert (trainer.predict(x).argmax(axis=3) == labels).mean() > 0.95


def test_unet_refuses_images_that_it_cannot_halve():
    with pytest.raises(ValueError, match=r"UNet: takes images .* multiples of 4, got \(1, 12, 10, 3\)"):
        models.UNet(3, 2, base_channels=2, depth=2)(np.zeros((1, 12, 10, 3), np.float32))
