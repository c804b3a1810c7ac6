"""``gpunet eval`` and ``gpunet predict``, which read what ``gpunet train`` has saved."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gpunet.cli.arguments import Command, add_backend, add_data_root, add_strict, when_unreadable
from gpunet.cli.user_models import import_function
from gpunet.data import DataLoader, Subset
from gpunet.distributed.commands import expect_same_options
from gpunet.train import recipes
from gpunet.train.saved import Saved, load_saved

BATCH_SIZE = 256
"""Images per batch; it does not change the results."""


def _add_checkpoint(parser: ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="best.safetensors of a run folder")
    parser.add_argument("--model", metavar="MODULE:FUNCTION", help="the function that made the model, if it is yours")


def _saved(options: Namespace) -> Saved:
    """The network that the arguments name, on all ranks."""
    expect_same_options(options)
    return load_saved(options.checkpoint, None if options.model is None else import_function(options.model))


def _add_eval_arguments(parser: ArgumentParser) -> None:
    _add_checkpoint(parser)
    parser.add_argument("--dataset", metavar="NAME|FOLDER", help="another data set than the one it was trained on")
    add_backend(parser)
    add_data_root(parser)
    add_strict(parser)


def evaluate(options: Namespace) -> int:
    """Print accuracy, loss and confusion matrix of a checkpoint on test images."""
    saved = _saved(options)
    name = saved.recipe.dataset if options.dataset is None else options.dataset
    test_set = recipes.load_test(
        name,
        saved.classes,
        root=options.data_root,
        size=saved.input_shape[:2],
        background=saved.background,
        unreadable=when_unreadable(options),
    )
    if (got := recipes.image_shape(test_set)) != saved.input_shape:
        raise ValueError(f"{name} has images {got} but {options.checkpoint} takes {saved.input_shape}")
    trainer = saved.trainer(options.backend, ["accuracy", "confusion"])
    result = trainer.evaluate(DataLoader(test_set, BATCH_SIZE, transform=saved.normalize))
    whole = test_set.dataset if isinstance(test_set, Subset) else None
    held_out = "" if whole is None else f" of {len(whole):,}, since the folder has no split test/"
    print(f"data set: {name}, {len(test_set):,} test images{held_out}")
    print(f"accuracy: {result['accuracy']:.2%}\nloss: {result['loss']:.4f}")
    print("confusion matrix: one row for each true class, one column for each predicted class")
    print("\n".join(_matrix_lines(result["confusion"], saved.classes)))
    return 0


def _matrix_lines(matrix: np.ndarray, classes: Sequence[str]) -> Iterator[str]:
    """The lines of a confusion matrix (K, K), with the names of the classes."""
    label = max(len(name) for name in classes)
    cell = max(len(str(matrix.max())), len(str(len(classes) - 1))) + 2
    yield " " * (label + 4) + "".join(f"{i:{cell}}" for i in range(len(classes)))
    for i, (name, row) in enumerate(zip(classes, matrix, strict=True)):
        yield f"{i:3} {name:{label}}" + "".join(f"{count:{cell}}" for count in row)


def _add_predict_arguments(parser: ArgumentParser) -> None:
    _add_checkpoint(parser)
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files, or folders of them")
    add_backend(parser)
    add_strict(parser)


def predict(options: Namespace) -> int:
    """Print the class and its probability for each image."""
    saved = _saved(options)
    trainer = saved.trainer(options.backend)
    paths = saved.image_paths(options.images, when_unreadable(options))
    # The name of a file need not be Unicode.
    names = [str(path).encode("utf-8", "backslashreplace").decode() for path in paths]
    width = max(len(name) for name in names)
    for start in range(0, len(paths), BATCH_SIZE):
        batch = slice(start, start + BATCH_SIZE)
        for name, row in zip(names[batch], saved.probabilities(trainer, paths[batch]), strict=True):
            print(f"{name:{width}}  {saved.classes[row.argmax()]}  {row.max():.1%}")
    return 0


EVAL = Command(
    "eval",
    "Print accuracy, loss and confusion matrix of a checkpoint on test images, whose classes are matched by name.",
    _add_eval_arguments,
    evaluate,
    shared=True,
)
PREDICT = Command(
    "predict", "Print the class and its probability for each image.", _add_predict_arguments, predict, shared=True
)
