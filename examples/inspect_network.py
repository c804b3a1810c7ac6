"""Train a small network, look inside it in every way that gpunet.vision.inspect has, and write the pictures to a folder.

    python inspect_network.py
    python inspect_network.py --dataset digits --output pictures
    python inspect_network.py --weights net.safetensors        # trained and saved the first time, loaded after

It takes Fashion-MNIST where the folder that GPUNET_DATA names holds it, else the digits that come with scikit-learn.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import gpunet as gp
from gpunet import data, nn, optim
from gpunet.interop import load_weights, save_weights
from gpunet.train import recipes
from gpunet.vision import inspect, plot

CONVOLVED, POOLED = "4", "5"
"""The last layers with pixels of `pooled_net`: the ReLU of its second convolution, and the pool behind it."""


def pooled_net(shape: tuple[int, int, int]) -> nn.Sequential:
    h, w, c = shape
    return nn.Sequential(
        nn.Conv2d(c, 16, 3 if h < 16 else 5, padding="same"), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * (h // 4) * (w // 4), 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def conv_net(shape: tuple[int, int, int]) -> nn.Sequential:
    """The same without pools."""
    h, w, c = shape
    return nn.Sequential(
        nn.Conv2d(c, 16, 3 if h < 16 else 5, padding="same"), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(32 * h * w, 10),
    )  # fmt: skip


def dense_net(shape: tuple[int, int, int]) -> nn.Sequential:
    h, w, c = shape
    return nn.Sequential(
        nn.Flatten(), nn.Linear(h * w * c, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def trained(model: nn.Sequential, train: Any, epochs: int, backend: Any) -> nn.Sequential:
    optimizer = optim.Adam(model.parameters(), lr=2e-3)
    gp.Trainer(model, optimizer, backend=backend, progress=False).fit(train, epochs=epochs)
    return model


def one_of_each(labels: np.ndarray, classes: int = 6) -> list[int]:
    return [int(np.argmax(labels == k)) for k in range(classes)]


def pictures(
    model: nn.Sequential, images: np.ndarray, labels: np.ndarray, names: tuple[str, ...]
) -> Iterator[tuple[str, Any]]:
    """(name, figure) of everything that looks at one network."""
    kinds = {name: f"{name} {type(layer).__name__}" for name, layer in model.named_modules()}
    chosen = one_of_each(labels)
    few, truth = images[chosen], labels[chosen]
    size = images.shape[1] // 4  # of the occluding square: a quarter of the image

    yield "first_layer_filters", plot.filters(inspect.first_layer_filters(model))

    maps = inspect.feature_maps(model, few[-1])
    yield "feature_maps", plot.feature_maps(few[-1], {kinds[name]: values[0] for name, values in maps.items()})

    fields = inspect.receptive_fields(model, images.shape[1:])
    yield "receptive_fields", plot.receptive_fields(few[-1], {kinds[name]: field for name, field in fields.items()})

    liked, projected = {}, {}
    busiest = np.argsort(-inspect.feature_maps(model, images, [POOLED])[POOLED].max(axis=(1, 2)).mean(axis=0))
    for unit in busiest[:5]:
        best = inspect.top_patches(model, images, POOLED, int(unit), 9)
        whole = inspect.deconvnet(model, images[best.images], POOLED, int(unit))
        liked[f"unit {unit}"] = best
        projected[f"unit {unit}"] = np.stack([best.cut(i, image) for i, image in enumerate(whole)])
    yield "top_patches_and_deconvnet", plot.patches(liked, projected)

    gradients = inspect.saliency(model, few, truth)
    camera = inspect.grad_cam(model, few, layer=CONVOLVED, target=truth)
    covered = inspect.occlusion(model, few, size, target=truth, value=float(images.min()))
    lost = covered.max(axis=(1, 2), keepdims=True) - covered
    guesses = [names[k] for k in model(few).numpy().argmax(axis=1)]
    titles = [f"{names[k]}\n(predicted {guess})" for k, guess in zip(truth, guesses, strict=True)]
    yield (
        "saliency_gradcam_occlusion",
        plot.heatmaps(
            few,
            {"saliency": gradients, "Grad-CAM": camera, "occlusion:\nprobability\nlost": lost},
            titles,
            title="Where the network looks (over each map, its largest value)",
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=("digits", "mnist", "fashion_mnist"))
    parser.add_argument("--output", type=Path, default=Path("runs/inspected"), metavar="FOLDER")
    parser.add_argument("--weights", type=Path, metavar="FILE.safetensors")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--train-images", type=int, default=12_000)
    parser.add_argument("--backend", default="auto", help="numpy, cuda, reference or auto")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        backend = gp.get_backend(arguments.backend)
    except (ValueError, gp.BackendError) as error:
        parser.error(str(error))

    there = Path(os.environ.get("GPUNET_DATA", "")) / "fashion-mnist"
    dataset = arguments.dataset or ("fashion_mnist" if "GPUNET_DATA" in os.environ and there.is_dir() else "digits")
    gp.seed(arguments.seed)
    train_set, test_set = (getattr(data, dataset)(split=part) for part in ("train", "test"))
    recipe = recipes.recipe(dataset)
    normalize = data.Normalize(recipe.mean, recipe.std)
    some = data.Subset(train_set, range(min(arguments.train_images, len(train_set))))
    train = data.DataLoader(some, 64, shuffle=True, transform=normalize)
    images, labels = next(iter(data.DataLoader(test_set, 1000, transform=normalize)))

    model = pooled_net(images.shape[1:])
    if arguments.weights and arguments.weights.exists():
        load_weights(arguments.weights, model)
        model.to(backend)
    else:
        trained(model, train, arguments.epochs, backend)
        if arguments.weights:
            save_weights(arguments.weights, model)
    accuracy = (model.eval()(images).numpy().argmax(axis=1) == labels).mean()
    print(f"{dataset}: {accuracy:.1%} of {len(labels)} test images right")

    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures(model, images, labels, test_set.classes):
        save(arguments.output / f"{name}.png", figure)

    # The translation experiment: what of a picture that moves to the right stays as it was, of the last features with
    # pixels (of the dense net, the last hidden layer) and of the class scores
    shape, shifts = images.shape[1:], range(images.shape[2] // 2 + 1)
    dense, conv = (trained(net(shape), train, arguments.epochs, backend) for net in (dense_net, conv_net))
    nets = {
        "pixels": (nn.Flatten(), None),
        "dense net": (dense, "4"),
        "conv net": (conv, "3"),
        "pooled": (model, POOLED),
    }
    for what in ("features", "scores"):
        curves = {
            name: inspect.translation(
                net, images[:200], layer if what == "features" else None, shifts=shifts, fill=float(images.min())
            )
            for name, (net, layer) in nets.items()
        }
        save(arguments.output / f"translation_{what}.png", plot.translation(shifts, curves, what))
        for name, curve in curves.items():
            print(f"  {name}: half way to another image at {inspect.half_way(shifts, curve):.1f} pixels")


def save(path: Path, figure: Any) -> None:
    figure.savefig(path, bbox_inches="tight")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
