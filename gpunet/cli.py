"""The command line: ``gpunet train | eval | predict | summary | info | kernels | check | bench``."""

from __future__ import annotations

import argparse
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import gpunet
from gpunet import models, nn, optim
from gpunet.backends import get_backend, why_unavailable
from gpunet.backends.registry import NAMES
from gpunet.check.command import add_arguments as add_check_arguments
from gpunet.check.command import run as run_check
from gpunet.data import DataLoader
from gpunet.data.readers.images import checked_background
from gpunet.errors import BackendError
from gpunet.files import write_whole
from gpunet.interop import load_weights
from gpunet.interop.json_values import to_json
from gpunet.precision import PRECISIONS
from gpunet.train import BestCheckpoint, Callback, CSVLogger, Trainer, recipes
from gpunet.train.saved import load_saved

REPORTED = (ValueError, TypeError, BackendError, OSError, ImportError, FloatingPointError, MemoryError)
"""What is said in one line; anything else is a fault of gpunet's and shows its traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command -> exit status: 0, 1 if what was checked fails, 2 for an error, 130 after Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments, rest = _parser().parse_known_args(argv[:1] if argv[:1] == ["bench"] else argv)
    if rest:
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.rest = argv[1:]
    try:
        return arguments.run(arguments) or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except REPORTED as error:
        if getattr(arguments, "traceback", False):
            raise
        print(f"gpunet {arguments.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


# ---- commands


def train(arguments: Namespace) -> int:
    """Train a network, and say how well it does on the test images."""
    if not 0 <= arguments.valid < 1:
        raise ValueError(f"--valid is {arguments.valid} but must be at least 0 and below 1")
    if arguments.image_size and arguments.dataset in recipes.DATASETS:
        raise ValueError(f"--image-size scales the images of a folder, not {arguments.dataset}'s")
    gpunet.seed(arguments.seed)
    recipe = _recipe(arguments)
    backend = get_backend(arguments.backend)
    sets = recipes.load_splits(
        recipe.dataset,
        root=arguments.data_root,
        size=arguments.image_size,
        valid=arguments.valid,
        background=arguments.background,
        unreadable="raise" if arguments.strict else "warn",
    )
    shape, classes = recipes.image_shape(sets.train), tuple(sets.train.classes)
    fits = (
        backend.name not in ("reference", "numpy") and recipe.dataset in recipes.DATASETS
    )  # a folder may be of any size
    train_loader, valid_loader, test_loader = recipes.make_loaders(
        recipe, sets.train, sets.valid or sets.test, sets.test, backend=backend if fits else None
    )
    model = recipes.make_model(recipe, shape, len(classes))
    optimizer = recipes.make_optimizer(recipe, model.parameters())
    description = {
        "recipe": recipe.as_dict(), "input_shape": shape, "classes": classes, "background": arguments.background
    }  # fmt: skip
    trainer = Trainer(
        model,
        optimizer,
        loss=recipes.make_loss(recipe),
        schedule=recipes.make_schedule(recipe, optimizer, recipe.epochs * len(train_loader)),
        backend=backend,
        precision=arguments.precision,
        callbacks=_run_folder(arguments, description, held_out=sets.valid is not None),
        progress=not arguments.quiet,
    )
    if not arguments.quiet:
        _print_setup(recipe, model, shape, backend, sets)
    history = trainer.fit(train_loader, recipe.epochs, valid=valid_loader)
    if arguments.output and len(history):
        load_weights(arguments.output / "best.safetensors", model)
    elif arguments.output:
        path = arguments.output / "interrupted.safetensors"
        trainer.save(path, metadata=description)
        print(f"interrupted in the first epoch: the weights so far are in {path}", file=sys.stderr)
    print(f"test accuracy: {trainer.evaluate(test_loader)['accuracy']:.1%}")
    return 130 if history.interrupted else 0


def evaluate(arguments: Namespace) -> int:
    """Accuracy, loss and confusion matrix of a checkpoint on test images, whose classes are matched by name."""
    saved = load_saved(arguments.checkpoint)
    name = saved.recipe.dataset if arguments.dataset is None else arguments.dataset
    test_set = recipes.load_test(
        name,
        saved.classes,
        root=arguments.data_root,
        size=saved.input_shape[:2],
        background=saved.background,
        unreadable="raise" if arguments.strict else "warn",
    )
    if (got := recipes.image_shape(test_set)) != saved.input_shape:
        raise ValueError(f"{name} has images {got} but {arguments.checkpoint} takes {saved.input_shape}")
    trainer = saved.trainer(arguments.backend, ["accuracy", "confusion"])
    result = trainer.evaluate(DataLoader(test_set, 256, transform=saved.normalize))
    print(f"data set: {name}, {len(test_set):,} test images")
    print(f"accuracy: {result['accuracy']:.2%}\nloss: {result['loss']:.4f}")
    print("confusion matrix: a row a true class, a column a predicted one")
    print("\n".join(_matrix_lines(result["confusion"], saved.classes)))
    return 0


def predict(arguments: Namespace) -> int:
    """Class and probability of each image."""
    saved = load_saved(arguments.checkpoint)
    trainer = saved.trainer(arguments.backend)
    paths = saved.image_paths(arguments.images, "raise" if arguments.strict else "warn")
    names = [str(path).encode("utf-8", "backslashreplace").decode() for path in paths]  # which may be no Unicode
    width = max(len(name) for name in names)
    for start in range(0, len(paths), 256):
        chosen = slice(start, start + 256)
        for name, row in zip(names[chosen], saved.probabilities(trainer, paths[chosen]), strict=True):
            print(f"{name:{width}}  {saved.classes[row.argmax()]}  {row.max():.1%}")
    return 0


def summary(arguments: Namespace) -> int:
    """Layers, parameters and FLOPs of a network; or, with ``--plan``, the kernels of one step."""
    model = getattr(models, arguments.model)(arguments.input, arguments.classes)
    if not arguments.plan:
        print(model.summary(arguments.input))
        return 0
    plan = model.plan(
        arguments.input,
        batch_size=arguments.batch_size,
        training=not arguments.inference,
        optimizer=partial(optim.SGD, lr=0.1, momentum=0.9),
        backend=None if arguments.backend == "auto" else arguments.backend,
        precision=arguments.precision,
    )
    print(plan)
    return 0


def info(arguments: Namespace) -> int:
    """Versions, backends and devices; where there is no GPU, why."""
    print(f"gpunet {gpunet.__version__}, Python {sys.version.split()[0]}")
    for package in (
        "numpy",
        "safetensors",
        "cupy-cuda12x",
        "cupy-cuda13x",
        "cupy",
        "cuda-bindings",
        "nvidia-cuda-nvdisasm",
    ):
        if version := _version(package):
            print(f"{package} {version}")
    print(f"auto is {get_backend('auto').name}")
    for name in NAMES:
        why = why_unavailable(name)
        described = (
            f"not available: {why}" if why else ", ".join(f"{k} {v}" for k, v in get_backend(name).describe().items())
        )
        print(f"{name}: {described}")
    return 0


def kernels(arguments: Namespace) -> int:
    """Compile every CUDA kernel, and show registers, shared memory, spills and matrix and copy instructions; or run one with
    ``--run``. Needs no GPU."""
    if arguments.kernel:
        from gpunet.emulator.command import run_kernel

        return run_kernel(arguments)
    from gpunet.cuda import gate

    return gate.print_table(arguments.arch or gate.ARCHITECTURES)


def check(arguments: Namespace) -> int:
    """Check whether this machine's GPU computes what gpunet promises, in a few minutes; keep a record, and write a report."""
    return run_check(arguments)


def bench(arguments: Namespace) -> int:
    """Measure speed; ``gpunet bench --help`` says what."""
    from gpunet.bench.cli import main as run_bench

    return run_bench(arguments.rest)


# ---- parts of train


def _recipe(arguments: Namespace) -> recipes.Recipe:
    names = (
        "epochs", "batch_size", "lr", "optimizer", "weight_decay", "schedule", "dropout", "label_smoothing", "shift",
        "flip",
    )  # fmt: skip
    return recipes.recipe(arguments.dataset, arguments.model, **{name: getattr(arguments, name) for name in names})


def _run_folder(arguments: Namespace, description: dict[str, Any], held_out: bool) -> list[Any]:
    """The callbacks that fill ``--output``, all its files after the first epoch, so that those of an earlier run stay together
    until then. Only if something was held out is there a choice of the best epoch; the test images have no say in it."""
    folder = arguments.output
    if folder is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    config = {"seed": arguments.seed, "valid": arguments.valid, "gpunet": gpunet.__version__, **description}
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


def _print_setup(
    recipe: recipes.Recipe, model: nn.Module, shape: tuple[int, int, int], backend: Any, sets: recipes.Splits
) -> None:
    table = model.summary(shape)
    print(f"backend: {backend.name} ({backend.describe().get('device', 'unknown device')})")
    valid = "" if sets.valid is None else f"{len(sets.valid):,} to validate, "
    print(f"data set: {recipe.dataset}, {len(sets.train):,} images to train, {valid}{len(sets.test):,} to test")
    print(
        f"model: {recipe.model}, {table.parameters:,} parameters, {table.flops / 1e6:.1f} MFLOPs an image", flush=True
    )


# ---- parts of eval


def _matrix_lines(matrix: np.ndarray, classes: Sequence[str]) -> Iterator[str]:
    label = max(len(name) for name in classes)
    cell = max(len(str(matrix.max())), len(str(len(classes) - 1))) + 2
    yield " " * (label + 4) + "".join(f"{i:{cell}}" for i in range(len(classes)))
    for i, (name, row) in enumerate(zip(classes, matrix, strict=True)):
        yield f"{i:3} {name:{label}}" + "".join(f"{count:{cell}}" for count in row)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# ---- arguments


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="gpunet", description="Convolutional networks on NumPy or CuPy.")
    parser.add_argument("--version", action="version", version=f"gpunet {gpunet.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(_command(commands, "train", train))
    on_checkpoint = _command(commands, "eval", evaluate)
    on_checkpoint.add_argument("checkpoint", type=Path, help="best.safetensors of a run folder")
    on_checkpoint.add_argument("--dataset", help="another data set than it was trained on")
    _add_places(on_checkpoint)
    _add_strict(on_checkpoint)
    on_images = _command(commands, "predict", predict)
    on_images.add_argument("checkpoint", type=Path, help="best.safetensors of a run folder")
    on_images.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files, or folders of them")
    on_images.add_argument("--backend", default="auto", help="numpy, cuda, cuda:1, emulated, reference or auto")
    _add_strict(on_images)
    table = _command(commands, "summary", summary)
    table.add_argument("model", choices=recipes.MODELS)
    table.add_argument("--input", type=_extents(3), default=(28, 28, 1), metavar="HxWxC", help="default 28x28x1")
    table.add_argument("--classes", type=int, default=10)
    step = table.add_argument_group("the kernels that one step launches, run on a GPU, or else on the emulated device")
    step.add_argument("--plan", action="store_true", help="a training step: forward, loss, backward, SGD with momentum")
    step.add_argument("--inference", action="store_true", help="the forward pass alone")
    step.add_argument("--batch-size", type=int, default=32, help="default 32")
    step.add_argument("--precision", default="ieee", choices=PRECISIONS, help="what is stored; default ieee, float32")
    step.add_argument("--backend", default="auto", help="cuda, cuda:1, emulated or auto")
    _command(commands, "info", info)
    gate = _command(commands, "kernels", kernels)
    gate.add_argument("--arch", action="append", metavar="sm_90", help="only this architecture; may be repeated")
    _add_run(gate)
    add_check_arguments(_command(commands, "check", check))
    _command(commands, "bench", bench)
    return parser


def _command(commands: Any, name: str, run: Any) -> ArgumentParser:
    text = " ".join(run.__doc__.split()).replace("``", "")
    parser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    parser.set_defaults(run=run)
    return parser


def _add_train(parser: ArgumentParser) -> None:
    parser.epilog = "Options that are not given are the data set's recipe."
    add = parser.add_argument
    add("--dataset", default="digits", metavar="NAME|FOLDER", help=f"{', '.join(recipes.DATASETS)}, or CLASS/ folders")
    add("--model", default="cnn", choices=recipes.MODELS)
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
    add("--precision", default="ieee", choices=PRECISIONS, help="what a GPU stores; sums are float32 in all of them")
    add("--image-size", type=_extents(2), metavar="HxW", help="scale the images of a folder; 32 is 32x32")
    add(
        "--background",
        type=_background,
        default=(255, 255, 255),
        metavar="LEVEL|R,G,B",
        help="what transparent images lie on, from 0 to 255; default 255, white",
    )
    add("--valid", type=float, default=0.0, metavar="SHARE", help="of the training images, to choose the best epoch by")
    add("--seed", type=int, default=0)
    add(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="for best.safetensors, history.csv and config.json, after each epoch",
    )
    add("--quiet", action="store_true", help="print the test accuracy alone")
    _add_places(parser)
    _add_strict(parser)


def _add_run(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("running a kernel on the CPU")
    add = group.add_argument
    add("--run", nargs=2, dest="kernel", metavar=("FILE.cu", "KERNEL"), help='as in scale.cu "scale<float>"')
    add("--grid", default="1", metavar="X[xYxZ]", help="blocks; default 1")
    add("--block", default="256", metavar="X[xYxZ]", help="threads of a block; default 256")
    add(
        "--arg", action="append", default=[], metavar="VALUE",
        help="for each parameter in order: a number, none, a struct as JSON, FILE.npy, or an array as DTYPE:SHAPE:CONTENT, "
        "CONTENT being random, zeros, ones, arange or empty, as in float32:64x3:random",
    )  # fmt: skip
    add("--shared", type=int, default=0, metavar="BYTES", help="dynamic shared memory")
    add("--checked", action="store_true", help="check every access: bounds, alignment, uninitialised reads, races")
    add("--schedule", default="fifo", help="fifo, lifo or random:SEED; default fifo")
    add("--save", type=Path, metavar="FILE.npz", help="write every array after the run")


def _add_places(parser: ArgumentParser) -> None:
    parser.add_argument("--backend", default="auto", help="numpy, cuda, cuda:1, emulated, reference or auto")
    parser.add_argument("--data-root", type=Path, metavar="FOLDER", help="where public data sets are")


def _add_strict(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--strict", action="store_true", help="stop if an image cannot be read, instead of leaving it out"
    )


def _background(text: str) -> tuple[int, int, int]:
    """The type of an argument "255" or "255,0,0"."""
    levels = [int(part) for part in text.split(",")]
    return checked_background("--background", levels[0] if len(levels) == 1 else levels)


def _extents(count: int) -> Any:
    """The type of an argument "28x28x1" of `count` extents; for two, one number stands for both."""

    def extents(text: str) -> tuple[int, ...]:
        values = tuple(int(part) for part in text.lower().split("x"))
        if count == 2 and len(values) == 1:
            values *= 2
        if len(values) != count or min(values) < 1:
            raise ValueError
        return values

    return extents
