"""``gpunet train``, which trains a network."""

from __future__ import annotations

import argparse
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpunet import nn
from gpunet.backends import Backend, get_backend
from gpunet.cli.arguments import (
    PRECISION_HELP,
    Command,
    add_backend,
    add_data_root,
    add_strict,
    background,
    image_size,
    when_unreadable,
)
from gpunet.cli.runs import RECIPE_OPTIONS, RunFolder, Settings
from gpunet.cli.user_models import own_model
from gpunet.distributed import expect_alike, world
from gpunet.distributed.commands import expect_same_options
from gpunet.distributed.launch import launched
from gpunet.errors import warn
from gpunet.interop import load_weights
from gpunet.precision import PRECISIONS
from gpunet.random import seed
from gpunet.report.summary import summary
from gpunet.train import Callback, Trainer, recipes


def _add_arguments(parser: ArgumentParser) -> None:
    parser.epilog = f"An option that is not given takes the value of the data set's recipe. {_folder_recipe()}"
    add = parser.add_argument
    names = ", ".join(recipes.DATASETS)
    folders = f"{names}, or a folder of CLASS/ folders of images, or of gpunet shards' files; default digits"
    add("--dataset", metavar="NAME|FOLDER", help=folders)
    own = f"{', '.join(recipes.MODELS)}, or a function of yours, which is given the images' shape and how many classes"
    add("--model", metavar="NAME|MODULE:FUNCTION", help=f"{own}; default cnn")
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
    add("--precision", choices=PRECISIONS, help=PRECISION_HELP)
    add(
        "--image-size",
        type=image_size,
        metavar="HxW",
        help="scale a folder's images; 32 is 32x32; default: as they are",
    )
    add(
        "--background",
        type=background,
        metavar="LEVEL|R,G,B",
        help="colour behind transparent images, levels from 0 to 255; default 255, white",
    )
    held_out = "share of the training images that is held out to choose the best epoch; default 0"
    add("--valid", type=float, metavar="SHARE", help=held_out)
    add("--seed", type=int, help="decides everything that is drawn; default 0")
    add("--output", type=Path, metavar="FOLDER", help="keep the run here: checkpoints, history.csv and config.json")
    add("--overwrite", action="store_true", help="begin a new run although there is one in the folder of --output")
    resumed = "go on with the run in this folder, wherever it was stopped; --epochs may make it longer"
    add("--resume", type=Path, metavar="FOLDER", help=resumed)
    add("--checkpoint-steps", type=int, metavar="N", help="write a checkpoint every N steps, and at each epoch's end")
    add("--checkpoint-minutes", type=float, metavar="M", help="and at the latest every M minutes; default 10")
    add("--keep", type=int, metavar="K", help="how many checkpoints are kept, the newest ones; default 2")
    add("--quiet", action="store_true", help="print the test accuracy alone")
    add_backend(parser, default=None)
    add_data_root(parser)
    add_strict(parser)


def _folder_recipe() -> str:
    """The options that a folder gets."""
    recipe = recipes.recipe("").as_dict()
    listed = ", ".join(f"{name.replace('_', '-')} {recipe[name]}" for name in RECIPE_OPTIONS).replace("False", "off")
    return f"A folder's is: {listed}. Networks other than cnn have no dropout."


def train(options: Namespace) -> int:
    """Train a network, or go on with it, and print its accuracy on the test images."""
    expect_same_options(options)
    leads = world().leads  # rank 0 of several prints and writes for all
    quiet = options.quiet or not leads
    if options.resume is not None and (options.output is not None or options.overwrite):
        raise ValueError("--resume goes on in its own folder, without --output and --overwrite")
    kept = options.overwrite or any(
        getattr(options, name) is not None for name in ("keep", "checkpoint_steps", "checkpoint_minutes")
    )
    if kept and options.resume is None and options.output is None:
        raise ValueError("--overwrite, --keep and --checkpoint-… take a folder: give --output")
    asked = Settings.asked_for(options) if options.resume is None else Settings.read(options.resume).changed(options)
    backend = get_backend(asked.backend)
    settings = replace(asked, backend=backend.name if asked.backend == "auto" else asked.backend)
    folder = options.resume if options.output is None else options.output
    run = None if folder is None else RunFolder(folder)
    make = own_model(settings.recipe.model, options.model)
    if run is not None and options.resume is None and not options.overwrite:
        run.check_unused()
    if run is not None and leads:
        run.check_writable()
    seed(settings.seed)
    splits, loaders = _load(settings, backend, when_unreadable(options))
    shape, classes = recipes.image_shape(splits.train), tuple(splits.train.classes)
    model = recipes.make_model(settings.recipe, shape, len(classes), make)
    description = {
        "recipe": settings.recipe.as_dict(), "seed": settings.seed, "valid": settings.valid, "input_shape": shape,
        "classes": classes, "background": settings.background,
    }  # fmt: skip
    callbacks = [] if run is None else run.callbacks(settings, description, held_out=splits.valid is not None)
    trainer = _make_trainer(settings, model, len(loaders[0]), backend, callbacks, progress=not quiet)
    if not quiet:
        _print_setup(settings.recipe, model, shape, backend, splits)
    if run is not None and options.resume is not None:
        _go_on(run, trainer, settings, description, quiet=quiet)
    world().gather("the folder of the run", None)  # which all have looked at before rank 0 writes in it
    if run is not None and leads:  # from here on it can go on, whatever happens
        run.begin(settings, description, anew=options.resume is None)
    if (left := settings.recipe.epochs - trainer.epoch) > 0:
        trainer.fit(loaders[0], left, valid=loaders[1])
    if run is not None:
        _finish(run, trainer, settings)
    accuracy = trainer.evaluate(loaders[2])["accuracy"]
    if leads:
        print(f"test accuracy: {accuracy:.1%}")
    return 130 if trainer.history.interrupted else 0


def _load(settings: Settings, backend: Backend, unreadable: str) -> tuple[recipes.Splits, tuple[Any, ...]]:
    """The data sets of a run, and loaders to train, to validate and to test."""
    recipe = settings.recipe
    if settings.image_size and recipe.dataset in recipes.DATASETS:
        raise ValueError(f"--image-size scales the images of a folder, not {recipe.dataset}'s")
    splits = recipes.load_splits(
        recipe.dataset,
        root=settings.data_root,
        size=settings.image_size,
        valid=settings.valid,
        background=settings.background,
        unreadable=unreadable,
    )
    # A public data set fits into a GPU's memory. A folder may not.
    on_device = backend.name not in ("reference", "numpy") and recipe.dataset in recipes.DATASETS
    loaders = recipes.make_loaders(
        recipe, splits.train, splits.valid or splits.test, splits.test, backend=backend if on_device else None
    )
    return splits, loaders


def _make_trainer(
    settings: Settings, model: nn.Module, steps: int, backend: Backend, callbacks: list[Callback], progress: bool
) -> Trainer:
    """The Trainer of a run whose epochs have so many steps."""
    recipe = settings.recipe
    optimizer = recipes.make_optimizer(recipe, model.parameters())
    return Trainer(
        model,
        optimizer,
        loss=recipes.make_loss(recipe),
        schedule=recipes.make_schedule(recipe, optimizer, recipe.epochs * steps),
        backend=backend,
        precision=settings.precision,
        callbacks=callbacks,
        progress=progress,
    )


def _finish(run: RunFolder, trainer: Trainer, settings: Settings) -> None:
    """Load the best epoch's weights; say how a run goes on that was stopped before its end."""
    expect_alike(world(), "best.safetensors", run.best.exists(), "all ranks must see the same folder")
    if run.best.exists():
        load_weights(run.best, trainer.model)
    elif len(trainer.history) and trainer.leads:
        warn(f"{run.best} is not there: the accuracy is that of the last weights")
    if trainer.leads and trainer.history.interrupted and trainer.epoch < settings.recipe.epochs:
        own = f" --model {settings.recipe.model}" if recipes.is_own(settings.recipe.model) else ""
        launcher = f"{launched().command} -n {world().size} " if world().size > 1 else ""
        print(f"to go on: {launcher}gpunet train --resume {run.folder}{own}", file=sys.stderr)


def _go_on(run: RunFolder, trainer: Trainer, settings: Settings, description: dict[str, Any], quiet: bool) -> None:
    """Load the newest checkpoint, and say where training goes on."""
    loaded = run.go_on(trainer, settings, description)
    if not quiet and loaded is None:
        print("no checkpoint yet: training begins anew", flush=True)
    elif not quiet:
        print(f"going on from {loaded}, with {trainer.epoch} of {settings.recipe.epochs} epochs finished", flush=True)


def _print_setup(
    recipe: recipes.Recipe, model: nn.Module, shape: tuple[int, int, int], backend: Backend, splits: recipes.Splits
) -> None:
    table, about = summary(model, shape), backend.describe()
    tiles = f", tiles of {about['tiles']}" if "tiles" in about else ""
    ranks = f", {world().size} ranks" if world().size > 1 else ""
    print(f"backend: {backend.name} ({about.get('device', 'unknown device')}{tiles}{ranks})")
    valid = "" if splits.valid is None else f"{len(splits.valid):,} to validate, "
    print(f"data set: {recipe.dataset}, {len(splits.train):,} images to train, {valid}{len(splits.test):,} to test")
    print(
        f"model: {recipe.model}, {table.parameters:,} parameters, {table.flops / 1e6:.1f} MFLOPs an image", flush=True
    )


TRAIN = Command(
    "train", "Train a network, and print its accuracy on the test images.", _add_arguments, train, shared=True
)
