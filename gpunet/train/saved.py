"""A run that `gpunet train` has saved: its network, and how it reads images."""

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
from gpunet.train.recipes import MakeModel, Recipe, make_model
from gpunet.train.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A network with its saved weights, and what its checkpoint says of it.

    Attributes:
        input_shape: (H, W, C) of the images that the network takes.
        classes: the names of the labels.
        background: (red, green, blue), the colour behind transparent images.
    """

    recipe: Recipe
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    background: tuple[int, int, int] = (255, 255, 255)
    model: nn.Module = field(repr=False)

    @property
    def normalize(self) -> Normalize:
        """The transform of images outside training."""
        return Normalize(self.recipe.mean, self.recipe.std)

    def trainer(self, backend: str, metrics: Sequence[str] = ()) -> Trainer:
        """A Trainer that evaluates and predicts."""
        optimizer = optim.SGD(self.model.parameters(), lr=0.0)
        return Trainer(self.model, optimizer, metrics=list(metrics), backend=backend)

    def probabilities(self, trainer: Trainer, paths: Sequence[Path]) -> np.ndarray:
        """The network's probabilities for image files, (N, classes) float32.

        The images are scaled to the size that the network takes.
        """
        height, width, channels = self.input_shape
        images = [read_image(p, (height, width), channels == 1, background=self.background) for p in paths]
        (x,) = self.normalize((np.stack(images),), indices=np.arange(len(images)), epoch=0, seed=0)
        return F.softmax(tensor(trainer.predict(x))).numpy()

    def image_paths(self, given: Sequence[Path], unreadable: str) -> list[Path]:
        """The readable image files among the given ones and in the given folders.

        Args:
            given: files and folders.
            unreadable: what to do about other files, as for `data.ImageFolder`.
        Raises:
            FileNotFoundError: a path does not exist.
            ValueError: a folder has no images, or no file can be read.
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


def load_saved(path: str | os.PathLike[str], make: MakeModel | None = None) -> Saved:
    """Read a checkpoint that `gpunet train` has written.

    Args:
        path: the file.
        make: makes the network if it is the user's own: opening the file runs no code of its own.
    Raises:
        ValueError: something else has written it, or `make` is missing.
    """
    description: dict[str, Any] = read_metadata(path)
    if not {"recipe", "input_shape", "classes"} <= set(description):
        raise ValueError(f"{path} was not written by gpunet train: it does not say which network it is of")
    recipe = Recipe.from_dict(description["recipe"])
    h, w, c = description["input_shape"]
    classes = tuple(description["classes"])
    r, g, b = description.get("background", Saved.background)
    model = make_model(recipe, (h, w, c), len(classes), make)
    load_weights(path, model)
    return Saved(recipe=recipe, input_shape=(h, w, c), classes=classes, background=(r, g, b), model=model)
