"""``gpunet train``, which trains a network."""

from __future__ import annotations

import argparse
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from gpunet import nn
from gpunet.backends import Backend, get_backend
from gpunet.cli.arguments import (
    Command,
    add_backend,
    add_data_root,
    add_strict,
    background,
    image_size,
    when_unreadable,
)
from gpunet.files import write_whole
from gpunet.interop import load_weights
from gpunet.interop.json_values import to_json
from gpunet.precision import PRECISIONS
from gpunet.random import seed
from gpunet.report.summary import summary
from gpunet.train import BestCheckpoint, Callback, CSVLogger, Trainer, recipes
from gpunet.version import __version__

RECIPE_OPTIONS = (
    "epochs", "batch_size", "lr", "optimizer", "weight_decay", "schedule", "dropout", "label_smoothing", "shift", "flip",
)  # fmt: skip
"""The options that change the recipe where they are given."""


def _add_arguments(parser: ArgumentParser) -> None:
    parser.epilog = f"An option that is not given takes the value of the data set's recipe. {_folder_recipe()}"
    add = parser.add_argument
    names = ", ".join(recipes.DATASETS)
    add("--dataset", default="digits", metavar="NAME|FOLDER", help=f"{names}, or a folder of CLASS/ folders of images")
    add("--model", default="cnn", choices=recipes.MODELS, help="default cnn")
    add("--epochs", type=int)
    add("--batch-size", type=int)
    add("--lr", type=float, help="the largest learning rate of the schedule")
    add("--optimizer", choices=recipes.OPTIMIZERS)
    add("--weight-decay", type=float)
    add("--schedule", choices=recipes.SCHEDULES)
    add("--dropout", type=float, help="probability before the dense layers of cnn")
    add("--label-smoothing", type=float)
    add("--shift", type=int, metavar="PIXELS", help="move training images by up to this much")
    add("--flip", action=argparse.BooleanOptionalAction, default=None, help="mirror half of the training images")
    add("--precision", default="float32", choices=PRECISIONS, help="what a GPU stores; sums are float32 in all of them")
    add(
        "--image-size",
        type=image_size,
        metavar="HxW",
        help="scale a folder's images; 32 is 32x32; default: as they are",
    )
    add(
        "--background",
        type=background,
        default=(255, 255, 255),
        metavar="LEVEL|R,G,B",
        help="colour behind transparent images, levels from 0 to 255; default 255, white",
    )
    held_out = "share of the training images that is held out to choose the best epoch; default 0"
    add("--valid", type=float, default=0.0, metavar="SHARE", help=held_out)
    add("--seed", type=int, default=0, help="decides everything that is drawn; default 0")
    written = "write best.safetensors, history.csv and config.json here after each epoch"
    add("--output", type=Path, metavar="FOLDER", help=written)
    add("--quiet", action="store_true", help="print the test accuracy alone")
    add_backend(parser)
    add_data_root(parser)
    add_strict(parser)


def _folder_recipe() -> str:
    """The options that a folder gets."""
    recipe = recipes.recipe("").as_dict()
    listed = ", ".join(f"{name.replace('_', '-')} {recipe[name]}" for name in RECIPE_OPTIONS).replace("False", "off")
    return f"A folder's is: {listed}. Networks other than cnn have no dropout."


def train(options: Namespace) -> int:
    """Train a network, and print its accuracy on the test images."""
    if not 0 <= options.valid < 1:
        raise ValueError(f"--valid is {options.valid} but must be at least 0 and below 1")
    if options.image_size and options.dataset in recipes.DATASETS:
        raise ValueError(f"--image-size scales the images of a folder, not {options.dataset}'s")
    seed(options.seed)
    changes = {name: getattr(options, name) for name in RECIPE_OPTIONS}
    recipe = recipes.recipe(options.dataset, options.model, **changes)
    backend = get_backend(options.backend)
    splits = recipes.load_splits(
        recipe.dataset,
        root=options.data_root,
        size=options.image_size,
        valid=options.valid,
        background=options.background,
        unreadable=when_unreadable(options),
    )
    # A public data set fits into a GPU's memory. A folder may not.
    on_device = backend.name not in ("reference", "numpy") and recipe.dataset in recipes.DATASETS
    train_loader, valid_loader, test_loader = recipes.make_loaders(
        recipe, splits.train, splits.valid or splits.test, splits.test, backend=backend if on_device else None
    )
    shape, classes = recipes.image_shape(splits.train), tuple(splits.train.classes)
    model = recipes.make_model(recipe, shape, len(classes))
    optimizer = recipes.make_optimizer(recipe, model.parameters())
    description = {
        "recipe": recipe.as_dict(), "input_shape": shape, "classes": classes, "background": options.background
    }  # fmt: skip
    trainer = Trainer(
        model,
        optimizer,
        loss=recipes.make_loss(recipe),
        schedule=recipes.make_schedule(recipe, optimizer, recipe.epochs * len(train_loader)),
        backend=backend,
        precision=options.precision,
        callbacks=_writers(options, description, held_out=splits.valid is not None),
        progress=not options.quiet,
    )
    if not options.quiet:
        _print_setup(recipe, model, shape, backend, splits)
    history = trainer.fit(train_loader, recipe.epochs, valid=valid_loader)
    if options.output:
        _finish_output(options.output, trainer, description, finished_epochs=len(history))
    print(f"test accuracy: {trainer.evaluate(test_loader)['accuracy']:.1%}")
    return 130 if history.interrupted else 0


def _writers(options: Namespace, description: dict[str, Any], held_out: bool) -> list[Callback]:
    """The callbacks that write the files of ``--output``.

    They write nothing before the end of the first epoch, so that the files of an earlier run in the
    same folder stay together until then. The best epoch is chosen by the held-out images, and is
    the last one where there are none: the test images decide nothing.
    """
    folder = options.output
    if folder is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    config = {"seed": options.seed, "valid": options.valid, "gpunet": __version__, **description}
    text = to_json("config.json", config, indent=2) + "\n"
    monitor = "valid_accuracy" if held_out else "epoch"
    return [
        _ConfigWriter(folder / "config.json", text),
        BestCheckpoint(folder / "best.safetensors", monitor, metadata=description),
        CSVLogger(folder / "history.csv"),
    ]


class _ConfigWriter(Callback):
    """Writes config.json after the first epoch."""

    order = 30

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text

    def after_epoch(self, trainer: Trainer) -> None:
        if trainer.epoch == 1:
            write_whole(self.path, self.text.encode())


def _finish_output(folder: Path, trainer: Trainer, description: dict[str, Any], finished_epochs: int) -> None:
    """Load the best epoch's weights; or save the present ones if Ctrl-C came before the end of the
    first epoch."""
    if finished_epochs:
        load_weights(folder / "best.safetensors", trainer.model)
        return
    path = folder / "interrupted.safetensors"
    trainer.save(path, metadata=description)
    print(f"interrupted in the first epoch: the weights so far are in {path}", file=sys.stderr)


def _print_setup(
    recipe: recipes.Recipe, model: nn.Module, shape: tuple[int, int, int], backend: Backend, splits: recipes.Splits
) -> None:
    table = summary(model, shape)
    print(f"backend: {backend.name} ({backend.describe().get('device', 'unknown device')})")
    valid = "" if splits.valid is None else f"{len(splits.valid):,} to validate, "
    print(f"data set: {recipe.dataset}, {len(splits.train):,} images to train, {valid}{len(splits.test):,} to test")
    print(
        f"model: {recipe.model}, {table.parameters:,} parameters, {table.flops / 1e6:.1f} MFLOPs an image", flush=True
    )


TRAIN = Command("train", "Train a network, and print its accuracy on the test images.", _add_arguments, train)
