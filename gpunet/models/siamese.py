"""Nets that tell whether two images show the same: one embedding, shared by both (Siamese nets, Bromley et al. 1993)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from gpunet import functional as F
from gpunet import nn
from gpunet.autograd import Tensor


class Siamese(nn.Module):
    """Two images through one embedding, and a logit of their being of one class (Koch, Zemel & Salakhutdinov 2015, section 3).

        logit = sum over j of alpha_j |e(a)_j - e(b)_j| + bias

    Args:
        embedding: (N, H, W, C) -> (N, D); its weights are shared by both images.
        features: D.
    """

    def __init__(self, embedding: nn.Module, features: int) -> None:
        self.embedding = embedding
        self.head = nn.Linear(features, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """a, b (N, H, W, C) -> logits (N,) for `binary_cross_entropy_with_logits`: positive where they are of one class."""
        return self.head(F.abs(self.embedding(a) - self.embedding(b))).reshape(len(a))


def koch(input_shape: tuple[int, int, int] = (105, 105, 1)) -> Siamese:
    """The net of Koch, Zemel & Salakhutdinov 2015 ("Siamese neural networks for one-shot image recognition", figure 4).

    Args:
        input_shape: (H, W, C); its 105x105x1 gives 38,951,745 parameters.
    """
    h, w, c = input_shape
    layers: list[nn.Module] = []
    for filters, window, pooled in ((64, 10, True), (128, 7, True), (128, 4, True), (256, 4, False)):
        layers += [nn.Conv2d(c, filters, window, activation="relu"), *[nn.MaxPool2d(2)] * pooled]
        h, w, c = (h - window + 1) // (1 + pooled), (w - window + 1) // (1 + pooled), filters
        if min(h, w) < 1:
            raise ValueError(f"koch: images are {input_shape[0]}x{input_shape[1]}, which is too small")
    return Siamese(nn.Sequential(*layers, nn.Flatten(), nn.Linear(h * w * c, 4096, activation="sigmoid")), 4096)


def conv4(input_shape: tuple[int, int, int] = (28, 28, 1), channels: Sequence[int] = (64, 64, 64, 64)) -> nn.Sequential:
    """The embedding of Vinyals et al. 2016 and Snell et al. 2017 (section 3.1): (N, H, W, C) -> (N, D).

    Four times a 3x3 convolution, batch norm, ReLU and a 2x2 max pool.

    Args:
        input_shape: (H, W, C), at least 16 pixels each way; 28x28x1 gives 111,936 parameters and D = 64.
        channels: filters of each convolution.
    """
    h, w, c = input_shape
    if min(h, w) < 1 << len(channels):
        raise ValueError(f"conv4: images are {h}x{w} but must be at least {1 << len(channels)} pixels each way")
    layers: list[nn.Module] = []
    for before, filters in pairwise((c, *channels)):
        layers += [
            nn.Conv2d(before, filters, 3, padding="same"), nn.BatchNorm2d(filters, activation="relu"), nn.MaxPool2d(2)
        ]  # fmt: skip
    return nn.Sequential(*layers, nn.Flatten())


def embed_views(embedding: nn.Module, views: Tensor) -> Tensor:
    """Embeddings (V W, D), the classes of a view together, of views (W, V, H, W, C): what `all_pairs_loss` takes."""
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
    """Fixed trials of within-alphabet one-shot classification (Lake et al. 2015, "Omniglot").

    A trial takes `ways` characters of one alphabet (by turns) and two drawers: one drew the examples, the other the query.

    Args:
        alphabet: (K,), the alphabet of each character.
        characters, drawer: (N,), of each drawing, as `data.Omniglot` has them.
        ways: alphabets of fewer characters are left out.
        seed: of NumPy's Philox, so that the trials stay the same.
    Returns:
        queries (trials,) int64, the drawings asked about; examples (trials, ways) int64, of which the first is of the query's
        character.
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
