"""A run that `gpunet train` has saved: the network, and how images are read for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpunet import functional as F
from gpunet import nn, optim
from gpunet.data import Normalize
from gpunet.data.readers.folders import check_readable, image_files
from gpunet.data.readers.images import SUFFIXES, read_image
from gpunet.interop import load_weights, read_metadata
from gpunet.tensors import tensor
from gpunet.train.recipes import Recipe, make_model
from gpunet.train.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What a checkpoint's metadata say, and the network with its weights.

    Attributes:
        input_shape: (H, W, C) of the images that the network takes.
        classes: names of the labels.
        background: (red, green, blue) that transparent images lie on.
    """

    recipe: Recipe
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    background: tuple[int, int, int] = (255, 255, 255)
    model: nn.Module = field(repr=False)

    @property
    def normalize(self) -> Normalize:
        """The transform of images that are not augmented."""
        return Normalize(self.recipe.mean, self.recipe.std)

    def trainer(self, backend: str, metrics: Sequence[str] = ()) -> Trainer:
        """A Trainer to evaluate or predict with."""
        optimizer = optim.SGD(self.model.parameters(), lr=0.0)
        return Trainer(self.model, optimizer, metrics=list(metrics), backend=backend, progress=False)

    def probabilities(self, trainer: Trainer, paths: Sequence[Path]) -> np.ndarray:
        """(N, classes) float32: what the network says of image files, scaled to the size that it takes."""
        height, width, channels = self.input_shape
        images = [read_image(p, (height, width), channels == 1, background=self.background) for p in paths]
        (x,) = self.normalize((np.stack(images),), indices=np.arange(len(images)), epoch=0, seed=0)
        return F.softmax(tensor(trainer.predict(x))).numpy()

    def image_paths(self, given: Sequence[Path], unreadable: str) -> list[Path]:
        """The image files that were named, and those in the folders that were named; which can be read.

        Args:
            unreadable: as for `data.ImageFolder`, which skips the same files.
        Raises:
            FileNotFoundError: a name of nothing.
            ValueError: a folder without images; nothing that can be read.
        """
        paths = []
        for path in given:
            if not path.exists():
                raise FileNotFoundError(f"there is no image {path}")
            found = image_files(path) if path.is_dir() else [path]
            if not found:
                raise ValueError(f"{path} holds no images ({', '.join(SUFFIXES)})")
            paths += found
        grey = self.input_shape[2] == 1
        fine = check_readable("predict", paths, unreadable, grey=grey, background=self.background)
        return [path for path, readable in zip(paths, fine, strict=True) if readable]


def load_saved(path: str | os.PathLike[str]) -> Saved:
    """Read a checkpoint that `gpunet train` has written.

    Raises:
        ValueError: it was written by another program.
    """
    description: dict[str, Any] = read_metadata(path)
    if not {"recipe", "input_shape", "classes"} <= set(description):
        raise ValueError(f"{path} was not written by gpunet train: it does not say which network it is of")
    saved = description["recipe"]
    recipe = Recipe(**{**saved, "mean": tuple(saved["mean"]), "std": tuple(saved["std"])})
    h, w, c = description["input_shape"]
    classes = tuple(description["classes"])
    r, g, b = description.get("background", Saved.background)
    model = make_model(recipe, (h, w, c), len(classes))
    load_weights(path, model)
    return Saved(recipe=recipe, input_shape=(h, w, c), classes=classes, background=(r, g, b), model=model)
