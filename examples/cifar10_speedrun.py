"""Train a network on CIFAR-10 to 94% of the test images in 8 epochs, and print how long that took.

    python cifar10_speedrun.py --runs 3
    python cifar10_speedrun.py --backend cuda --precision bfloat16 --runs 10

Network and recipe are Jordan's airbench94_muon, whose accuracy has a mean of 94.0% ("94% on
CIFAR-10 in 3.29 seconds on a single GPU", 2024, and github.com/KellerJordan/cifar10-airbench). On
two cores of a CPU a run takes half an hour or more. With --output, a run that was stopped goes on
where it was when the same command is given again.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np

import gpunet as gp
from gpunet import data, models, nn, optim, train
from gpunet import functional as F
from gpunet.backends import get_backend
from gpunet.precision import PRECISIONS

BATCH = 2000
TARGET = 0.94
NORMALIZE = data.Normalize(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
AUGMENT = data.Compose([data.RandomShift(2, border="reflect"), data.AlternatingFlip(), NORMALIZE])
WHITENING_IMAGES = 5000
WHITENING_EPOCHS = 3
"""How many epochs the biases of the whitening convolution learn."""
FILTER_RATE, BIAS_RATE, HEAD_RATE = 0.24, 0.053, 0.67
"""The first learning rates. Those of biases and of the head are for the sum of the losses of a
batch, and the Trainer takes the mean, so they are multiplied by the batch size."""
DECAY = 2e-6
"""Weight decay of biases and head for each image of a batch."""


class LinearDecay(optim.Schedule):
    """Lowers the learning rate of each group along a line to 0.

    Args:
        optimizer: whose learning rates are set.
        lengths: for each group the step at which its rate is 0, and from which on it stays there.
    """

    def __init__(self, optimizer: optim.Optimizer, lengths: list[int]) -> None:
        self.lengths = lengths
        super().__init__(optimizer)

    def options(self) -> dict:
        """What a checkpoint must agree with."""
        return {**super().options(), "lengths": self.lengths}

    def rates(self, step: int) -> list[float]:
        """The groups' rates at a step."""
        return [base * max(0.0, 1 - step / n) for base, n in zip(self.base_rates, self.lengths, strict=True)]


class FreezeWhitening(train.Callback):
    """Lets the whitening biases learn for the first epochs only, which saves their gradient."""

    def __init__(self, bias: gp.Parameter) -> None:
        self.bias = bias

    def before_epoch(self, trainer: gp.Trainer) -> None:
        """Decide for the epoch that begins."""
        self.bias.requires_grad = trainer.epoch < WHITENING_EPOCHS


def make_optimizer(model: nn.Sequential, batch_size: int) -> optim.Optimizer:
    """Muon for the filters, SGD for the whitening biases, the norms' biases and the head."""
    first, *convolutions = [layer for layer in model if isinstance(layer, nn.Conv2d)]
    norms = [layer.bias for layer in model if isinstance(layer, nn.BatchNorm2d)]
    head = [layer.weight for layer in model if isinstance(layer, nn.Linear)]
    groups = [{"params": [layer.weight for layer in convolutions], "rule": "muon"}]
    for parameters, rate in (([first.bias], BIAS_RATE), (norms, BIAS_RATE), (head, HEAD_RATE)):
        # One step shrinks a weight by DECAY * batch_size at the first rate, whichever rate that is.
        groups.append(
            {
                "params": parameters, "rule": "sgd", "lr": rate * batch_size, "momentum": 0.85,
                "weight_decay": DECAY / rate, "decoupled_weight_decay": False,
            }
        )  # fmt: skip
    return optim.Muon(groups, lr=FILTER_RATE, momentum=0.6, nesterov=True, ns_steps=3, normalize=True)


def logits_of_views(trainer: gp.Trainer, loader: data.DeviceLoader) -> np.ndarray:
    """The mean logits (N, classes) of six views of each image.

    Half of the weight belongs to the image and its mirror image, the other half to both moved by
    one pixel, up and left or down and right.
    """

    def view(x: gp.Tensor, by: int, step: int) -> gp.Tensor:
        h, w = x.shape[1:3]
        return F.pad2d(x, 1, mode="reflect")[:, 1 + by : 1 + by + h, 1 + by : 1 + by + w][:, :, ::step]

    weights = {(0, 1): 1 / 4, (0, -1): 1 / 4, (-1, 1): 1 / 8, (-1, -1): 1 / 8, (1, 1): 1 / 8, (1, -1): 1 / 8}
    return sum(weight * trainer.predict((view(x, *place),) for x, _ in loader) for place, weight in weights.items())


def prepare(
    arguments: argparse.Namespace, seed: int, train_set: data.Subset, test_set: data.Subset
) -> tuple[gp.Trainer, data.DeviceLoader, data.DeviceLoader]:
    """Upload the images and make the network -> (trainer, training loader, test loader)."""
    gp.seed(seed)
    size = min(BATCH, len(train_set))
    load = partial(data.DeviceLoader, batch_size=size, backend=arguments.backend)
    train_loader = load(train_set, shuffle=True, drop_last=True, transform=AUGMENT)
    test_loader = load(test_set, transform=NORMALIZE)
    first = np.arange(min(WHITENING_IMAGES, len(train_set)))
    model = models.speedrun(images=NORMALIZE(train_set[first], indices=first, epoch=0, seed=seed)[0])
    optimizer = make_optimizer(model, size)
    steps = arguments.epochs * len(train_loader)
    schedule = LinearDecay(optimizer, [steps, WHITENING_EPOCHS * len(train_loader), steps, steps])
    callbacks = [FreezeWhitening(model[0].bias)]
    if arguments.output:
        checkpoint = Path(arguments.output) / f"seed{seed}.safetensors"
        callbacks.append(train.Checkpoint(checkpoint, every_minutes=5))
    trainer = gp.Trainer(
        model, optimizer, loss=partial(F.cross_entropy, label_smoothing=0.2), schedule=schedule,
        backend=arguments.backend, precision=arguments.precision, callbacks=callbacks,
    )  # fmt: skip
    if arguments.output and (found := train.resume(trainer, checkpoint)):
        print(f"going on from {found}, after {trainer.epoch} epochs", flush=True)
    return trainer, train_loader, test_loader


def run(arguments: argparse.Namespace, seed: int, train_set: data.Subset, test_set: data.Subset) -> dict:
    """Train once -> what was measured, as JSON can hold it."""
    # The clock starts before the upload of the images. It goes on through the computation of the
    # whitening filters, the capture of the steps on a GPU, and all evaluations.
    start = perf_counter()
    trainer, train_loader, test_loader = prepare(arguments, seed, train_set, test_set)
    preparation = perf_counter() - start
    if trainer.epoch < arguments.epochs:
        trainer.fit(train_loader, epochs=arguments.epochs - trainer.epoch, valid=test_loader)
    if trainer.history.interrupted:
        raise SystemExit("interrupted; with --output, the same command goes on here")
    start, labels = perf_counter(), test_set[:][1]
    with_views = float((logits_of_views(trainer, test_loader).argmax(axis=1) == labels).mean())
    last = perf_counter() - start
    # A run that goes on from a checkpoint has the seconds of all its epochs in the history.
    ends = (preparation + np.cumsum(trainer.history["seconds"])).tolist()
    accuracies, seconds = trainer.history["valid_accuracy"], ends[-1] + last
    reached = [*zip(accuracies, ends, strict=True), (with_views, seconds)]
    record = {
        "seed": seed, "epochs": arguments.epochs, "precision": arguments.precision, "images": len(train_set),
        "backend": {"name": trainer.backend.name, **trainer.backend.describe()},
        "accuracy": accuracies[-1], "accuracy_with_six_views": with_views, "seconds": seconds,
        "seconds_to_94": next((time for accuracy, time in reached if accuracy >= TARGET), None),
        "history": trainer.history.rows,
    }  # fmt: skip
    if arguments.output and trainer.leads:
        (Path(arguments.output) / f"seed{seed}.json").write_text(json.dumps(record, indent=1) + "\n")
    return record


def warm_up(arguments: argparse.Namespace, *sets: data.Subset) -> None:
    """Train on one batch, so that all kernels are compiled, and print how long that took."""
    trial = argparse.Namespace(**{**vars(arguments), "epochs": 1, "output": None})
    one_batch = (data.Subset(whole, np.arange(min(BATCH, len(whole)))) for whole in sets)
    seconds = run(trial, arguments.seed, *one_batch)["seconds"]
    print(
        f"warm-up with one batch: {seconds:.2f} s; a run with a cold kernel cache takes at most this much longer",
        flush=True,
    )


def describe(record: dict) -> str:
    """One line about a run."""
    reached = record["seconds_to_94"]
    return (
        f"seed {record['seed']}: accuracy {record['accuracy']:.2%}, with six views {record['accuracy_with_six_views']:.2%}, "
        f"in {record['seconds']:.2f} s; " + ("94% not reached" if reached is None else f"94% after {reached:.2f} s")
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8, help="passes over the training images; default: 8")
    parser.add_argument("--precision", default="float32", choices=PRECISIONS)
    parser.add_argument("--seed", type=int, default=0, help="of the first run; each further run takes the next one")
    parser.add_argument("--runs", type=int, default=1, help="how many runs to make; default: 1")
    parser.add_argument("--backend", default="auto", help="numpy, cuda, reference or auto")
    parser.add_argument(
        "--root", help="folder that holds cifar-10-batches-bin; default: the folder that GPUNET_DATA names"
    )
    parser.add_argument(
        "--warm-up", action=argparse.BooleanOptionalAction,
        help="first train on one batch, so that the kernel cache is warm; default: on a GPU",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, help="take only the first images of each split, for a trial")
    parser.add_argument("--output", help="folder for a record of each run and for checkpoints to go on from")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    train_set, test_set = (
        data.Subset(whole, np.arange(len(whole))[: arguments.limit])
        for whole in (data.cifar10(arguments.root, split) for split in ("train", "test"))
    )
    if arguments.output:
        Path(arguments.output).mkdir(parents=True, exist_ok=True)
    on_gpu = get_backend(arguments.backend).name.startswith("cuda")
    if on_gpu if arguments.warm_up is None else arguments.warm_up:
        warm_up(arguments, train_set, test_set)
    records = []
    for seed in range(arguments.seed, arguments.seed + arguments.runs):
        records.append(run(arguments, seed, train_set, test_set))
        print(describe(records[-1]), flush=True)
    if arguments.runs > 1:
        for name, unit in (("accuracy", "%"), ("accuracy_with_six_views", "%"), ("seconds", "s")):
            values = np.array([record[name] for record in records]) * (100 if unit == "%" else 1)
            print(f"{name}: mean {values.mean():.2f} {unit}, standard deviation {values.std(ddof=1):.2f} {unit}")


if __name__ == "__main__":
    main()
