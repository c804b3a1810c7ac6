"""Trains networks in every precision, and compares their losses with those of float32's seeds.

    python tests/reliability/training_curves.py --steps 200 --backend emulated --output curves

A network is trained in float32 with a few seeds, which decide the initial parameters, the order of
the images and what dropout drops. The curve that ends between the others is then repeated in each
precision with the same seed. Prints a row of a Markdown table for each precision: whether the mean
of its last losses lies between the smallest and the largest of float32's. The exit status is 1 if
one does not, or if a convolution that tensor cores can compute was computed elsewhere.

With the seed of the lowest or the highest curve, any rounding, also that of another order of
float32's sums, would leave the interval half of the time. Rows named float32 are such controls:
float32 with the middle seed, whose initial parameters are off by up to 1e-7 of themselves.

With --output, each curve is kept in a file, and the same command computes only those that are
missing. On a GPU, `--backend cuda --float32-backend cuda --nets resnet9 --batch-size 512` trains
the whole network.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

import gpunet as gp
from gpunet import data, models, nn, optim
from gpunet import functional as F
from gpunet.backends import get_backend
from gpunet.backends.cuda.backend import recording_backend
from gpunet.models.parts import conv_norm
from gpunet.train import Callback, StopTraining

LAST = 50
"""How many losses at the end of a curve are averaged, where this is no more than its half."""
CONTROL = 1e-7
"""By which share of themselves the initial parameters of controls are off."""
NARROW = ("bfloat16", "float16", "tf32", "3xtf32")
HEAD = "| net | seed | precision | last losses | float32 | within | from the same seed | on tensor cores | other products |"


@dataclass(frozen=True)
class Task:
    """A network and how it is trained: with a one-cycle schedule over the steps, without augmentation."""

    make: Callable[[], nn.Module]
    images: Callable[[], data.ArrayDataset]
    normalize: data.Normalize
    batch_size: int
    """Small enough for 200 steps on the emulated device."""
    optimizer: Callable[..., optim.Optimizer]
    lr: float
    """The largest learning rate: one at which float32 ends within the interval when its initial parameters are
    rounded otherwise."""


@dataclass
class Curve:
    """The losses of all steps, and which kernels computed products in them."""

    losses: list[float]
    convolutions: int = 0
    """Launches of a convolution or of its gradients on tensor cores."""
    expected: int = 0
    """How many these are if all whose channels and filters are whole chunks of 16 bytes are computed there."""
    others: dict[str, int] | None = None
    """Launches of other kernels that compute products, by the name of the kernel."""
    share: float = 0.0
    """The part of the operations of all products that ran on tensor cores."""

    def end(self):
        """The mean of the last losses."""
        return float(np.mean(self.losses[-min(LAST, len(self.losses) // 2) :]))


def digits_net():
    """The network of the tutorial about digits."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding="same"), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.25), nn.Linear(256, 10),
    )  # fmt: skip


def quarter_resnet9():
    """`models.resnet9` for images of 16x16 pixels with a quarter of its filters."""
    return nn.Sequential(
        *conv_norm(3, 16),
        *conv_norm(16, 32), nn.MaxPool2d(2),
        nn.Residual(*conv_norm(32, 32), *conv_norm(32, 32)),
        *conv_norm(32, 64), nn.MaxPool2d(2),
        *conv_norm(64, 128), nn.MaxPool2d(2),
        nn.Residual(*conv_norm(128, 128), *conv_norm(128, 128)),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def halved_cifar10():
    """CIFAR-10 at 16x16 pixels, each of which is the mean of four."""
    x, y = data.cifar10()[:]
    return data.ArrayDataset(np.rint(x.reshape(-1, 16, 2, 16, 2, 3).mean(axis=(2, 4))).astype(np.uint8), y)


def sgd(parameters, lr):
    """The optimizer of the recipes."""
    return optim.SGD(parameters, lr, momentum=0.9, nesterov=True, weight_decay=5e-4)


OBJECTS = data.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
TASKS = {
    "digits": Task(digits_net, data.digits, data.Normalize(0.3, 0.4), 32, optim.Adam, 0.003),
    "quarter_resnet9": Task(quarter_resnet9, halved_cifar10, OBJECTS, 16, sgd, 0.001),
    "cnn": Task(models.cnn, data.fashion_mnist, data.Normalize(0.2860, 0.3530), 8, sgd, 0.002),
    "resnet9": Task(models.resnet9, data.cifar10, OBJECTS, 128, sgd, 0.1),
}
"""From the cheapest on; the last is for a GPU."""


class Watch(Callback):
    """Keeps the losses, counts launches, and ends training after so many steps."""

    def __init__(self, steps, recording=None):
        self.steps, self.recording = steps, recording
        self.losses, self.launches, self.flops = [], Counter(), Counter()

    def loss(self, logits, y):
        """The loss of a Trainer."""
        self.value = F.cross_entropy(logits, y)
        return self.value

    def after_step(self, trainer):
        """Read the loss, and say how far training is."""
        self.losses.append(self.value.item())
        if len(self.losses) % 10 == 0:
            print(f"step {len(self.losses)}: {np.mean(self.losses[-10:]):.4f}", file=sys.stderr, flush=True)
        for launch in self.recording.launches if self.recording else ():
            self.launches[launch.kernel] += bool(launch.flops)
            self.flops["_mma<" in launch.kernel] += launch.flops
        if self.recording:
            self.recording.clear()
        if len(self.losses) == self.steps:
            raise StopTraining


def on_tensor_cores(model, chunk):
    """Launches of a step for the convolutions whose channels and filters are whole chunks."""
    layers = [m for _, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    return sum(3 for m in layers if all(n % chunk == 0 for n in m.weight.shape[2:]))


def disturbed(model, number):
    """Multiply each parameter by a number close to 1."""
    rng, state = np.random.default_rng(number), model.state_dict()
    factors = {name: 1 + CONTROL * rng.uniform(-1, 1, value.shape) for name, value in state.items()}
    model.load_state_dict({name: (value * factors[name]).astype(value.dtype) for name, value in state.items()})
    return model


def train(task, precision, seed, steps, backend, dataset, control=None):
    """Train a network for so many steps; a control has a number, which decides its initial disturbance."""
    recording = None
    if precision != "float32":
        backend, recording = recording_backend(backend)
    gp.seed(seed)
    model, watch = task.make(), Watch(steps, recording)
    if control is not None:
        disturbed(model, control)
    optimizer = task.optimizer(model.parameters(), lr=task.lr)
    schedule = optim.OneCycleLR(optimizer, max_lr=task.lr, total_steps=steps)
    loader = data.DataLoader(dataset, task.batch_size, shuffle=True, drop_last=True, transform=task.normalize)
    trainer = gp.Trainer(
        model, optimizer, loss=watch.loss, metrics=[], schedule=schedule, backend=backend, precision=precision,
        capture=False, callbacks=[watch], progress=False,
    )  # fmt: skip
    trainer.fit(loader, -(-steps // len(loader)))
    if recording is None:
        return Curve(watch.losses)
    mma = {name: n for name, n in watch.launches.items() if "_mma<" in name}
    others = Counter()
    for name in watch.launches.keys() - mma.keys():
        others[name.partition("<")[0]] += watch.launches[name]
    return Curve(
        watch.losses,
        sum(n for name, n in mma.items() if name.startswith("conv2d_")),
        steps * on_tensor_cores(model, 8 if "float16" in precision else 4),
        {name: n for name, n in sorted(others.items()) if n},
        watch.flops[True] / watch.flops.total(),
    )


def kept(folder, name, compute):
    """What is in a curve's file, which is written if there is none."""
    path = folder and Path(folder) / f"{name}.json"
    if path and path.exists():
        return Curve(**json.loads(path.read_text()))
    curve = compute()
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(curve)))
    return curve


def row_of(curve, singles, paired):
    """(cells of a row, whether the precision is within the spread of float32's seeds)."""
    ends = [single.end() for single in singles]
    within = min(ends) <= curve.end() <= max(ends)
    units, others = "", ""
    if curve.others is not None:
        others = ", ".join(f"{n} {kernel}" for kernel, n in curve.others.items())
        units = f"{curve.convolutions} of {curve.expected} launches of convolutions, {curve.share:.1%} of all products"
    shown, away = ", ".join(f"{end:.4f}" for end in ends), f"{curve.end() - ends[paired]:+.4f}"
    return (f"{curve.end():.4f}", shown, "yes" if within else "no", away, units, others), within


def middle(singles):
    """The place of the curve that ends between the others."""
    return int(np.argsort([single.end() for single in singles])[len(singles) // 2])


def compare(name, task, options):
    """Train a network in float32 and in each precision, and print a row for each -> whether all are right."""
    dataset, right = task.images(), True

    def curve_of(precision, seed, backend, control=None):
        numbered = "" if control is None else f"-control{control}"
        about = f"{name}-{precision}-seed{seed}{numbered}-batch{task.batch_size}-lr{task.lr}-{options.steps}-{backend}"
        print(about, file=sys.stderr, flush=True)
        made = get_backend(backend)
        return kept(options.output, about, lambda: train(task, precision, seed, options.steps, made, dataset, control))

    def show(precision, curve):
        cells, within = row_of(curve, singles, paired)
        print(f"| {' | '.join((name, str(seed), precision, *cells))} |", flush=True)
        return within

    singles = [curve_of("float32", seed, options.float32_backend) for seed in options.seeds]
    paired = middle(singles)
    seed = options.seeds[paired]
    for control in range(options.controls):
        show("float32", curve_of("float32", seed, options.float32_backend, control))
    for precision in options.precisions:
        curve = curve_of(precision, seed, options.backend)
        right &= show(precision, curve) and curve.convolutions == curve.expected
    return right


def main():
    """Train, and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--backend", default="emulated", help="on which the precisions are computed")
    parser.add_argument("--float32-backend", default="numpy", help="on which float32 is computed")
    parser.add_argument("--nets", nargs="+", choices=TASKS, default=[name for name in TASKS if name != "resnet9"])
    parser.add_argument("--precisions", nargs="+", choices=NARROW, default=NARROW)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of float32, an odd number of them")
    parser.add_argument("--controls", type=int, default=3, help="float32 curves of the middle seed, disturbed by 1e-7")
    parser.add_argument("--batch-size", type=int, help="in place of those of the tasks")
    parser.add_argument("--output", help="a folder that keeps the curves")
    options, right = parser.parse_args(), True
    print(f"{HEAD}\n|{'---|' * (HEAD.count('|') - 1)}", flush=True)
    for name in options.nets:
        task = replace(TASKS[name], batch_size=options.batch_size or TASKS[name].batch_size)
        right &= compare(name, task, options)
    return int(not right)


if __name__ == "__main__":
    sys.exit(main())
