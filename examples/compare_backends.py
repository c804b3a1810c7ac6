"""Train the same network on two backends, from the same weights, on the same batches, and compare the losses.

    python compare_backends.py
    python compare_backends.py --backends numpy cuda --steps 200 --plot curves.png

Two backends add up in different orders, so their losses differ in the last digits, about 1e-7. Where a ReLU's input
comes so close to 0 that it is positive on one of them only, the curves part, as float32 and float64 do on one backend.
"""

import argparse
from itertools import islice

import gpunet as gp
from gpunet import data, models, optim
from gpunet import functional as F
from gpunet.data import DataLoader, Normalize


def losses(backend: str, steps: int, batch_size: int, seed: int) -> list[float]:
    """The loss of each step of a new network; equal seeds give equal weights and batches on every backend."""
    gp.seed(seed)
    model = models.cnn((8, 8, 1)).to(backend)
    optimizer = optim.SGD(model.parameters(), lr=0.02)
    loader = DataLoader(data.digits(split="train"), batch_size, shuffle=True, transform=Normalize(0.305, 0.377))
    epochs = (batch for _ in iter(int, 1) for batch in loader)  # the loader again and again
    values = []
    for images, labels in islice(epochs, steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs=2, default=["numpy", "reference"], metavar=("FIRST", "SECOND"))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", metavar="FILE.png", help="draw both curves (needs matplotlib)")
    arguments = parser.parse_args()

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
    main()
