import numpy as np
import pytest

import gpunet as gp
from gpunet import nn
from gpunet.nn import init

SHAPE = (3, 5, 40, 60)  # fan_in 600, fan_out 900
VARIANCES = {
    "kaiming_uniform": 2 / 600, "kaiming_normal": 2 / 600,
    "xavier_uniform": 2 / 1500, "xavier_normal": 2 / 1500,
    "lecun_uniform": 1 / 600, "lecun_normal": 1 / 600,
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANCES)
def test_initialisers_have_their_variance_and_bounds(name):
    drawn, variance = init.draw(name, SHAPE), VARIANCES[name]
    assert drawn.dtype == np.float32
    assert drawn.shape == SHAPE
    assert abs(drawn.mean()) < 5 * np.sqrt(variance / drawn.size)
    assert drawn.var() == pytest.approx(variance, rel=0.03)
    bound = np.sqrt(3 * variance) if name.endswith("uniform") else 4.33 * np.sqrt(variance)
    assert np.abs(drawn).max() <= bound * (1 + 1e-6)
    assert np.abs(drawn).max() > (0.99 if name.endswith("uniform") else 0.85) * bound


def test_fans_count_the_receptive_field():
    assert init.fans(SHAPE) == (600, 900)
    assert init.fans((7, 3)) == (7, 3)
    with pytest.raises(ValueError, match=r"init: a filter has at least 2 axes \(…, C, O\), got shape \(3,\)"):
        init.fans((3,))


def test_activations_keep_their_size_through_deep_relu_layers(rng):
    x = gp.tensor(rng.normal(size=(64, 256)).astype(np.float32))
    start = (x.numpy() ** 2).mean()
    for _ in range(20):
        x = nn.Linear(256, 256, activation="relu")(x)
    assert 0.2 < (x.numpy() ** 2).mean() / start < 5


def test_layers_take_an_initialiser_by_name_or_as_a_function():
    assert not nn.Linear(3, 4, init="zeros").weight.numpy().any()
    assert (nn.Conv2d(1, 2, 3, init=lambda shape: np.full(shape, 5)).weight.numpy() == 5).all()
    gp.seed(3)
    first = nn.Linear(5, 5, init="xavier_normal").weight.numpy()
    gp.seed(3)
    np.testing.assert_array_equal(first, init.xavier_normal((5, 5)))
