"""Trains a small net: captured steps, and batches made on the device, must make no difference; each
precision must learn."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpunet import data, nn, optim, random
from gpunet.backends.contract import MATRIX_PRECISIONS
from gpunet.backends.cuda.backend import CudaBackend
from gpunet.check.stage import FailedError, NotApplicableError, Numbers, Stage
from gpunet.precision import PRECISIONS
from gpunet.train import Trainer, recipes

TIMES = ("seconds", "images_per_second")
"""Entries of the history that differ between equal runs."""
NORMALIZE = data.Normalize(0.3, 0.35)
FEW = 320
"""Training images, and test images, on the emulated device."""
LEAST_ACCURACY = 0.5
"""The accuracy that each precision must reach after two epochs, with ten classes. It shows that the
net learns at all."""


class Task(NamedTuple):
    """What a net is trained on."""

    train: data.ArrayDataset
    test: data.ArrayDataset
    transform: data.Compose
    """The transform of the training images."""
    small: bool
    """Whether the net is small, for the emulated device."""


WAYS: dict[str, dict[str, Any]] = {
    "step by step, the same history and weights as captured": {"capture": False},
    "with batches that kernels make, the same as captured": {"capture": True, "on_device": True},
    "captured once more, the same": {"capture": True},
}
"""Ways to train that must give the same history and weights as captured training, with their
options for `_trained`."""


def run(stage: Stage) -> None:
    """Train a small net in all ways that must make no difference, then in each precision."""
    backend, task = stage.backend, _task(stage)
    captured: dict[str, Any] = {}
    stage.check("with a captured step", _first, captured, backend, task)
    for what, how in WAYS.items():
        stage.check(what, _same, captured, backend, task, how)
    for precision in PRECISIONS:
        stage.check(f"precision {precision}", _learns, backend, task, precision)


def _task(stage: Stage) -> Task:
    """The digits of scikit-learn; or images of bars, drawn by NumPy, where scikit-learn is not
    installed."""
    steps: list[Any] = [data.RandomShift(1), NORMALIZE]
    try:
        train, test = recipes.load_dataset("digits", root=None, size=None)
    except ImportError:
        steps = [NORMALIZE]  # bars must not be shifted, because their place is their class
        train, test = (data.ArrayDataset(*_bars(count, seed)) for count, seed in ((1438, 0), (359, 1)))
        stage.check("digits", _no_digits)
    if stage.emulated:
        train, test = (data.ArrayDataset(*part[np.arange(FEW)]) for part in (train, test))
    return Task(train, test, data.Compose(steps), stage.emulated)


def _no_digits() -> Numbers:
    raise NotApplicableError(
        "scikit-learn, which holds them, is not installed: images of bars are made and used instead"
    )


def _bars(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images (count, 8, 8, 1) of a bright row or column in noise, and its number: 0 to 7 for
    rows, 8 and 9 for columns."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 100, (count, 8, 8, 1), dtype=np.uint8), rng.integers(0, 10, count)
    for image, label in zip(x, y, strict=True):
        line = image[label] if label < 8 else image[:, label - 8]
        line += 150
    return x, y


def _trained(
    backend: CudaBackend, task: Task, *, capture: bool, on_device: bool = False, precision: str = "float32"
) -> dict[str, Any]:
    """Train for two epochs from seed 0 -> history, weights, and accuracy on the test images."""
    random.seed(0)
    width = 8 if task.small else 32
    model = nn.Sequential(
        nn.Conv2d(1, width, 3, padding="same"), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(16 * width, 10),
    )  # fmt: skip
    options: dict[str, Any] = {"shuffle": True, "transform": task.transform}
    loader = (
        data.DeviceLoader(task.train, 32, backend=backend, **options)
        if on_device
        else data.DataLoader(task.train, 32, **options)
    )
    trainer = Trainer(
        model, optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        backend=backend, capture=capture, precision=precision, progress=False,
    )  # fmt: skip
    history = trainer.fit(loader, 2)
    test = trainer.evaluate(data.DataLoader(task.test, 256, transform=NORMALIZE))
    rows = [{name: value for name, value in row.items() if name not in TIMES} for row in history.rows]
    return {
        "rows": rows,
        "weights": model.state_dict(),
        "accuracy": test["accuracy"],
        "seconds": history.rows[-1]["seconds"],
    }


def _first(captured: dict[str, Any], backend: CudaBackend, task: Task) -> Numbers:
    captured.update(_trained(backend, task, capture=True))
    return _numbers(captured)


def _same(captured: dict[str, Any], backend: CudaBackend, task: Task, how: dict[str, Any]) -> Numbers:
    if not captured:
        raise NotApplicableError("captured training failed, so there is nothing to compare with")
    found = _trained(backend, task, **how)
    if found["rows"] != captured["rows"]:
        raise FailedError(f"the history is another: {found['rows'][-1]}, captured {captured['rows'][-1]}")
    for name, array in captured["weights"].items():
        if array.tobytes() != found["weights"][name].tobytes():
            raise FailedError(f"the weights {name} are others")
    return _numbers(found)


def _numbers(found: dict[str, Any]) -> Numbers:
    """The numbers of a training run that are reported."""
    return {
        "loss": found["rows"][-1]["loss"],
        "test accuracy": found["accuracy"],
        "seconds of an epoch": found["seconds"],
    }


def _learns(backend: CudaBackend, task: Task, precision: str) -> Numbers:
    if precision in MATRIX_PRECISIONS[1:] and precision not in backend.matrix_units:
        raise NotApplicableError("this device does not compute it on matrix units")
    found = _trained(backend, task, capture=True, on_device=True, precision=precision)
    numbers = _numbers(found)
    if not found["accuracy"] >= LEAST_ACCURACY:
        raise FailedError(f"it has not learnt: less than {LEAST_ACCURACY:.0%}", numbers)
    return numbers
