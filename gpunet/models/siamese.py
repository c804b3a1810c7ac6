"""Networks that tell whether two images show the same: one embedding for both.

Bromley et al. 1993, "Signature verification using a Siamese time delay neural network".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from gpunet import functional as F
from gpunet import nn
from gpunet.autograd import Tensor
from gpunet.models.parts import ImageShape, check_extents
from gpunet.nn.origin import recorded

__all__ = ["Siamese", "conv4", "koch"]


@recorded
class Siamese(nn.Module):
    """Embeds two images with the same weights and gives the logit that they are of one class.

            logit = sum over j of alpha_j |e(a)_j - e(b)_j| + bias

    Koch, Zemel & Salakhutdinov 2015, "Siamese neural networks for one-shot image recognition",
    section 3.

    Args:
        embedding: (N, H, W, C) -> (N, D).
        features: D.
    """

    def __init__(self, embedding: nn.Module, features: int) -> None:
        self.embedding = embedding
        self.head = nn.Linear(features, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Logits (N,) for `binary_cross_entropy_with_logits`, of images a, b (N, H, W, C).

        They are positive where a and b are of one class.
        """
        return self.head(F.abs(self.embedding(a) - self.embedding(b))).reshape(len(a))


@recorded
def koch(input_shape: ImageShape = (105, 105, 1)) -> Siamese:
    """The network of Koch, Zemel & Salakhutdinov 2015, figure 4; see `Siamese`.

    Args:
        input_shape: (H, W, C); the paper's 105x105x1 gives 38,951,745 parameters.
    """
    h, w, c = input_shape
    layers: list[nn.Module] = []
    for filters, size, pooled in ((64, 10, True), (128, 7, True), (128, 4, True), (256, 4, False)):
        layers += [nn.Conv2d(c, filters, size, activation="relu"), *[nn.MaxPool2d(2)] * pooled]
        h, w, c = (h - size + 1) // (1 + pooled), (w - size + 1) // (1 + pooled), filters
        if min(h, w) < 1:
            raise ValueError(f"koch: images are {input_shape[0]}x{input_shape[1]}, which is too small")
    return Siamese(nn.Sequential(*layers, nn.Flatten(), nn.Linear(h * w * c, 4096, activation="sigmoid")), 4096)


@recorded
def conv4(input_shape: ImageShape = (28, 28, 1), channels: Sequence[int] = (64, 64, 64, 64)) -> nn.Sequential:
    """The embedding of Vinyals et al. 2016 and of Snell et al. 2017, section 3.1.

    It takes (N, H, W, C) to (N, D) by four times a 3x3 convolution, batch norm, ReLU and a 2x2 max
    pool.

    Args:
        input_shape: (H, W, C), at least 16x16 pixels; 28x28x1 gives 111,936 parameters and D = 64.
        channels: filters of each convolution.
    """
    check_extents("conv4", input_shape, 1 << len(channels))
    layers: list[nn.Module] = []
    for before, filters in pairwise((input_shape[2], *channels)):
        layers += [
            nn.Conv2d(before, filters, 3, padding="same"), nn.BatchNorm2d(filters, activation="relu"), nn.MaxPool2d(2)
        ]  # fmt: skip
    return nn.Sequential(*layers, nn.Flatten())


def embed_views(embedding: nn.Module, views: Tensor) -> Tensor:
    """Embeddings (V W, D) of views (W, V, H, W, C), for `functional.all_pairs_loss`.

    The embeddings of one view of all classes come together.
    """
    ways, count, *image = views.shape
    return embedding(views.transpose(1, 0, 2, 3, 4).reshape(count * ways, *image))


def one_shot_trials(
    alphabet: np.ndarray,
    characters: np.ndarray,
    drawer: np.ndarray,
    *,
    ways: int = 20,
    trials: int = 400,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Fixed trials of within-alphabet one-shot classification on Omniglot.

    Lake, Salakhutdinov & Tenenbaum 2015, "Human-level concept learning through probabilistic
    program induction". A trial takes `ways` characters of one alphabet (alphabets by turns) and two
    drawers; one drew the examples, the other the query.

    Args:
        alphabet: (K,), the alphabet of each character.
        characters, drawer: (N,), of each drawing, as in `data.Omniglot`.
        ways: alphabets with fewer characters are left out.
        seed: of NumPy's Philox, so that the trials stay the same.
    Returns:
        queries (trials,) int64, drawings to classify; examples (trials, ways) int64, the first of
        which is of the query's character.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    position = {(int(k), int(d)): i for i, (k, d) in enumerate(zip(characters, drawer, strict=True))}
    groups = [np.flatnonzero(alphabet == a) for a in np.unique(alphabet)]
    groups = [group for group in groups if len(group) >= ways]
    if not groups:
        raise ValueError(f"one_shot_trials: no alphabet has {ways} characters")
    queries, examples = np.empty(trials, np.int64), np.empty((trials, ways), np.int64)
    for t in range(trials):
        chosen = rng.permutation(groups[t % len(groups)])[:ways]
        first, second = rng.permutation(int(drawer.max()) + 1)[:2]
        queries[t] = position[int(chosen[0]), int(first)]
        examples[t] = [position[int(k), int(second)] for k in chosen]
    return queries, examples
