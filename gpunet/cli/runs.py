"""The folder of a run: what ``gpunet train --output`` keeps, and what ``--resume`` goes on from."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from gpunet.errors import DamagedFileError
from gpunet.files import is_leftover, remove_leftovers, versions, write_whole
from gpunet.interop import read_metadata
from gpunet.interop.json_values import to_json
from gpunet.train import BestCheckpoint, Callback, Checkpoint, CSVLogger, Trainer, resume
from gpunet.train.recipes import Recipe, recipe
from gpunet.version import __version__

RECIPE_OPTIONS = (
    "epochs", "batch_size", "lr", "optimizer", "weight_decay", "schedule", "dropout", "label_smoothing", "shift", "flip",
)  # fmt: skip
"""The options that change the recipe where they are given."""
CHANGEABLE = ("backend", "precision", "data_root", "checkpoint_steps", "checkpoint_minutes", "keep")
"""The settings that a run may change where it goes on; ``--epochs`` may, too."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that a run was asked for, which decides its results; config.json holds it.

    Attributes:
        image_size: (height, width) to which a folder's images are scaled, or None.
        extended: whether ``--epochs`` has changed the length of the schedule after the beginning.
    """

    recipe: Recipe
    seed: int = 0
    valid: float = 0.0
    image_size: tuple[int, int] | None = None
    background: tuple[int, int, int] = (255, 255, 255)
    precision: str = "float32"
    backend: str = "auto"
    data_root: str | None = None
    checkpoint_steps: int | None = None
    checkpoint_minutes: float | None = 10.0
    keep: int = 2
    extended: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.valid < 1:
            raise ValueError(f"--valid is {self.valid} but must be at least 0 and below 1")

    @classmethod
    def asked_for(cls, options: Namespace) -> Self:
        """The settings of a new run."""
        changes = {name: getattr(options, name) for name in RECIPE_OPTIONS}
        dataset = "digits" if options.dataset is None else options.dataset
        made = recipe(dataset, "cnn" if options.model is None else options.model, **changes)
        return cls(recipe=made, **_given(options))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The settings of a run that was begun.

        Raises:
            FileNotFoundError, ValueError: the folder holds no run, or one of gpunet 0.1.0.
        """
        path = folder / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"there is no run in {folder}, which has no config.json: begin one with --output")
        try:
            config = json.loads(path.read_text())
            kept = {name: config[name] for name in cls.__dataclass_fields__ if name != "recipe"}
            pairs = {name: tuple(kept[name]) for name in ("image_size", "background") if kept[name] is not None}
            return cls(recipe=Recipe.from_dict(config["recipe"]), **{**kept, **pairs})
        except (KeyError, TypeError, ValueError) as error:
            said = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{path} does not say how to go on: {said}") from error

    def changed(self, options: Namespace) -> Self:
        """The settings of a run that goes on with other options.

        Raises:
            ValueError: an option cannot be changed any more.
        """
        fixed = {"dataset", *RECIPE_OPTIONS, *_SETTINGS} - {"epochs", *CHANGEABLE}
        if given := sorted(name for name in fixed if getattr(options, name) is not None):
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ValueError(f"--resume goes on with the options of the run, without {names}")
        new = replace(self, **{name: value for name, value in _given(options).items() if name in CHANGEABLE})
        if options.epochs is None or options.epochs == self.recipe.epochs:
            return new
        if options.epochs < self.recipe.epochs:
            raise ValueError(
                f"--epochs is {options.epochs}, but the run has {self.recipe.epochs} and can only get longer"
            )
        return replace(new, recipe=replace(self.recipe, epochs=options.epochs), extended=True)


_SETTINGS = tuple(name for name in Settings.__dataclass_fields__ if name not in ("recipe", "extended"))


def _given(options: Namespace) -> dict[str, Any]:
    """The settings beside the recipe that were given on the command line."""
    given = {name: getattr(options, name) for name in _SETTINGS if getattr(options, name) is not None}
    if "data_root" in given:
        given["data_root"] = str(given["data_root"].expanduser().resolve())  # valid in other working folders too
    return given


class RunFolder:
    """The files of a run, each of which is complete at any moment.

    Attributes:
        last: the newest checkpoint; the one before it stands beside it.
        best: the checkpoint of the best epoch.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last, self.best = folder / "last.safetensors", folder / "best.safetensors"
        self._config, self._history = folder / "config.json", folder / "history.csv"

    def check_unused(self) -> None:
        """Raise FileExistsError if there is something in the folder, beside half-written files.

        Those stay: another process may be writing them.
        """
        if self.folder.exists() and not (self.folder.is_dir() and all(map(is_leftover, self.folder.iterdir()))):
            raise FileExistsError(
                f"{self.folder} exists: --resume {self.folder} goes on with its run, --overwrite begins a new one in it"
            )

    def check_writable(self) -> None:
        """Raise OSError if the folder cannot be written, before data are loaded, which may take long."""
        path = self.folder.absolute()
        here = next(each for each in (path, *path.parents) if each.exists())
        if not here.is_dir():
            raise NotADirectoryError(f"{self.folder} cannot be made: {here} is a file")
        if not os.access(here, os.W_OK | os.X_OK):
            raise PermissionError(f"{self.folder} cannot be written: {here} allows no new files")

    def begin(self, settings: Settings, description: Mapping[str, Any], anew: bool) -> None:
        """Write config.json, from which the run can go on.

        Args:
            description: what else config.json says.
            anew: whether the files of an earlier run are removed.
        """
        self._remove_leftovers()
        if anew:
            # the configuration first: without it there is no run that could go on with the rest
            for path in (self._config, self._history, *versions(self.last), *versions(self.best)):
                path.unlink(missing_ok=True)
        config = {**asdict(settings), "gpunet": __version__, **description}
        write_whole(self._config, (to_json("config.json", config, indent=2) + "\n").encode())

    def callbacks(self, settings: Settings, description: Mapping[str, Any], held_out: bool) -> list[Callback]:
        """What writes the files while training.

        The best epoch is chosen by the held-out images, and is the last one where there are none:
        the test images decide nothing.
        """
        last = Checkpoint(
            self.last,
            every_steps=settings.checkpoint_steps,
            every_minutes=settings.checkpoint_minutes,
            keep=settings.keep,
            metadata=description,
        )
        best = BestCheckpoint(self.best, "valid_accuracy" if held_out else "epoch", metadata=description)
        return [CSVLogger(self._history), best, last]

    def go_on(self, trainer: Trainer, settings: Settings, description: Mapping[str, Any]) -> Path | None:
        """Load the newest checkpoint that is whole -> its path; None if there is none yet.

        history.csv then agrees with it again: it may have been written before the checkpoint was.

        Raises:
            ValueError: the checkpoint is of a run with another description.
        """
        for path in versions(self.last):
            with suppress(DamagedFileError):  # which `resume` speaks of
                _check_same(path, json.loads(to_json("config.json", description)))
                break
        loaded = resume(trainer, self.last, extend_schedule=settings.extended)
        if not trainer.leads:
            return loaded
        if len(trainer.history):
            trainer.history.to_csv(self._history)
        else:
            self._history.unlink(missing_ok=True)
        return loaded

    def _remove_leftovers(self) -> None:
        for path in (self._config, self._history, self.last, self.best):
            remove_leftovers(path)


def _check_same(path: Path, description: dict[str, Any]) -> None:
    """Raise ValueError where a checkpoint is of a run with another description, but for its length."""
    saved = read_metadata(path)
    ours, theirs = ({**each, **each["recipe"], "recipe": None, "epochs": None} for each in (description, saved))
    if changed := [name for name, value in ours.items() if theirs.get(name, value) != value]:
        raise ValueError(
            f"{path} is of a run with other {', '.join(changed)}: the data set or config.json has changed since then"
        )
