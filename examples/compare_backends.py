"""Train the same network on two backends, from the same weights and on the same batches, and
compare the losses.

    python compare_backends.py
    python compare_backends.py --backends numpy cuda --steps 200 --plot curves.png

Two backends add numbers in different orders, so their losses differ in the last digits, by about
1e-7. Where the input of a ReLU is so close to 0 that it is positive on only one of the backends,
the curves drift apart, just as float32 and float64 drift apart on one backend.
"""

import argparse
import signal

import gpunet as gp
from gpunet import data, models, optim
from gpunet import functional as F
from gpunet.data import DataLoader, Normalize
from gpunet.distributed import world


def losses(backend: str, steps: int, batch_size: int, seed: int) -> list[float]:
    """Train a new network and return the loss of each step.

    Equal seeds give equal weights and equal batches on every backend.
    """
    gp.seed(seed)
    model = models.cnn((8, 8, 1)).to(backend)
    optimizer = optim.SGD(model.parameters(), lr=0.02)
    loader = DataLoader(data.digits(split="train"), batch_size, shuffle=True, transform=Normalize(0.305, 0.377))
    values: list[float] = []
    while True:
        for images, labels in loader:
            if len(values) == steps:
                return values
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            values.append(loss.item())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--backends",
        nargs=2,
        default=["numpy", "reference"],
        metavar=("FIRST", "SECOND"),
        help="numpy, cuda, cuda:1, emulated or reference; default: numpy reference",
    )
    parser.add_argument("--steps", type=int, default=40, help="training steps on each backend")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", metavar="FILE.png", help="draw both curves (needs matplotlib)")
    arguments = parser.parse_args()
    if not world().leads:  # ranks share what a Trainer does, and there is none here
        return

    if arguments.steps < 1:
        parser.error("--steps must be at least 1")
    names = arguments.backends
    for name in names:
        try:
            gp.get_backend(name)
        except (ValueError, gp.BackendError) as error:
            parser.error(str(error))
    curves = [losses(name, arguments.steps, arguments.batch_size, arguments.seed) for name in names]
    differences = [abs(a - b) / max(abs(a), 1e-12) for a, b in zip(*curves, strict=True)]

    print(f"{'step':>5}  {names[0]:>12}  {names[1]:>12}  {'difference':>10}")
    for step, (a, b, difference) in enumerate(zip(*curves, differences, strict=True), start=1):
        print(f"{step:5}  {a:12.7f}  {b:12.7f}  {difference:10.1e}")
    print(f"largest relative difference: {max(differences):.1e}")
    if arguments.plot:
        plot(arguments.plot, names, curves)


def plot(path: str, names: list[str], curves: list[list[float]]) -> None:
    """Draw the losses of both backends over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    for name, curve, style in zip(names, curves, ("-", "--"), strict=True):
        axes.plot(range(1, len(curve) + 1), curve, style, label=name)
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # end quietly where the reader, such as head, closes the pipe
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    main()
