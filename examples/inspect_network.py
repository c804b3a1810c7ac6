"""Train a small network, look inside it in every way that gpunet.vision.inspect offers, and write
the pictures to a folder.

    python inspect_network.py
    python inspect_network.py --dataset digits --output pictures
    python inspect_network.py --weights net.safetensors     # saved by the first run, loaded later

The script uses Fashion-MNIST if the folder that GPUNET_DATA names holds it, and otherwise the
digits of scikit-learn.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import gpunet as gp
from gpunet import data, nn, optim
from gpunet.distributed import world
from gpunet.interop import load_weights, save_weights
from gpunet.train import recipes
from gpunet.vision import inspect, plot

DATASETS = {"digits": data.digits, "mnist": data.mnist, "fashion_mnist": data.fashion_mnist}
CONVOLVED, POOLED = "4", "5"
"""Names of two layers of `pooled_net`: the ReLU after the second convolution, and the max pool
after that."""


def pooled_net(shape: tuple[int, int, int]) -> nn.Sequential:
    """Two convolutions with max pools, and two dense layers."""
    h, w, c = shape
    return nn.Sequential(
        nn.Conv2d(c, 16, 3 if h < 16 else 5, padding="same"), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * (h // 4) * (w // 4), 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def conv_net(shape: tuple[int, int, int]) -> nn.Sequential:
    """Two convolutions without max pools, and one dense layer."""
    h, w, c = shape
    return nn.Sequential(
        nn.Conv2d(c, 16, 3 if h < 16 else 5, padding="same"), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(32 * h * w, 10),
    )  # fmt: skip


def dense_net(shape: tuple[int, int, int]) -> nn.Sequential:
    """Three dense layers."""
    h, w, c = shape
    return nn.Sequential(
        nn.Flatten(), nn.Linear(h * w * c, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def trained(model: nn.Sequential, loader: data.DataLoader, epochs: int, backend: Any) -> nn.Sequential:
    """Train the model, and return it."""
    optimizer = optim.Adam(model.parameters(), lr=2e-3)
    gp.Trainer(model, optimizer, backend=backend, progress=False).fit(loader, epochs=epochs)
    return model


def pictures(
    model: nn.Sequential, images: np.ndarray, labels: np.ndarray, names: tuple[str, ...]
) -> Iterator[tuple[str, Any]]:
    """(name, figure) of everything that looks at one network.

    Args:
        images: (N, H, W, C), as the model takes them.
        labels: (N,), the class of each image.
        names: of the classes.
    """
    titles = {name: f"{name} {type(layer).__name__}" for name, layer in model.named_modules()}
    chosen = [int(np.argmax(labels == k)) for k in range(6)]  # the first image of six classes
    few, truth = images[chosen], labels[chosen]

    yield "first_layer_filters", plot.filters(inspect.first_layer_filters(model))

    maps = inspect.feature_maps(model, few[-1])
    yield "feature_maps", plot.feature_maps(few[-1], {titles[name]: values[0] for name, values in maps.items()})

    fields = inspect.receptive_fields(model, images.shape[1:])
    yield "receptive_fields", plot.receptive_fields(few[-1], {titles[name]: field for name, field in fields.items()})

    # The five units that the images activate most: the patches that activate each of them, and what
    # caused it.
    activations = inspect.feature_maps(model, images, [POOLED])[POOLED]
    strongest = np.argsort(-activations.max(axis=(1, 2)).mean(axis=0))[:5]
    patches, projections = {}, {}
    for unit in strongest:
        best = inspect.top_patches(model, images, POOLED, int(unit), 9)
        whole = inspect.deconvnet(model, images[best.images], POOLED, int(unit))
        patches[f"unit {unit}"] = best
        projections[f"unit {unit}"] = np.stack([best.cut(i, image) for i, image in enumerate(whole)])
    yield "top_patches_and_deconvnet", plot.patches(patches, projections)

    square = images.shape[1] // 4  # side of the occluding square
    probabilities = inspect.occlusion(model, few, square, target=truth, value=float(images.min()))
    predicted = model(few).numpy().argmax(axis=1)
    heatmaps = {
        "saliency": inspect.saliency(model, few, truth),
        "Grad-CAM": inspect.grad_cam(model, few, layer=CONVOLVED, target=truth),
        "occlusion:\nprobability\nlost": probabilities.max(axis=(1, 2), keepdims=True) - probabilities,
    }
    captions = [f"{names[k]}\n(predicted {names[guess]})" for k, guess in zip(truth, predicted, strict=True)]
    title = "Where the network looks (over each map, its largest value)"
    yield "saliency_gradcam_occlusion", plot.heatmaps(few, heatmaps, captions, title=title)


def translation_curves(
    nets: dict[str, tuple[nn.Module, str | None]], images: np.ndarray, shifts: range
) -> dict[str, np.ndarray]:
    """How far the output of a layer of each net changes when the images move to the right by
    `shifts` pixels."""
    fill = float(images.min())
    return {
        name: inspect.translation(net, images[:200], layer, shifts=shifts, fill=fill)
        for name, (net, layer) in nets.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=DATASETS)
    parser.add_argument("--output", type=Path, default=Path("runs/inspected"), metavar="FOLDER")
    parser.add_argument("--weights", type=Path, metavar="FILE.safetensors", help="load the weights, or save them here")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--train-images", type=int, default=12_000, help="train on at most this many images")
    parser.add_argument("--backend", default="auto", help="numpy, cuda, reference or auto")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        backend = gp.get_backend(arguments.backend)
    except (ValueError, gp.BackendError) as error:
        parser.error(str(error))

    leads = world().leads  # under mpirun the ranks meet here, and only rank 0 prints and writes files
    dataset = arguments.dataset or default_dataset()
    gp.seed(arguments.seed)
    load = DATASETS[dataset]
    train_set = load(split="train")
    test_set = load(split="test")
    recipe = recipes.recipe(dataset)
    normalize = data.Normalize(recipe.mean, recipe.std)
    some = data.Subset(train_set, range(min(arguments.train_images, len(train_set))))
    loader = data.DataLoader(some, 64, shuffle=True, transform=normalize)
    images, labels = next(iter(data.DataLoader(test_set, 1000, transform=normalize)))

    model = pooled_net(images.shape[1:])
    if arguments.weights and arguments.weights.exists():
        load_weights(arguments.weights, model)
        model.to(backend)
    else:
        trained(model, loader, arguments.epochs, backend)
        if arguments.weights and leads:
            save_weights(arguments.weights, model)
    accuracy = (model.eval()(images).numpy().argmax(axis=1) == labels).mean()
    print(f"{dataset}: {accuracy:.1%} of {len(labels)} test images right")

    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures(model, images, labels, test_set.classes):
        save(arguments.output / f"{name}.png", figure)

    # The translation experiment moves the images to the right, and measures how far that changes
    # the last features that still have pixels (of the dense net, the last hidden layer), and the
    # class scores.
    shifts = range(images.shape[2] // 2 + 1)
    dense = trained(dense_net(images.shape[1:]), loader, arguments.epochs, backend)
    conv = trained(conv_net(images.shape[1:]), loader, arguments.epochs, backend)
    features = {
        "pixels": (nn.Flatten(), None),
        "dense net": (dense, "4"),
        "conv net": (conv, "3"),
        "pooled": (model, POOLED),
    }
    scores = {name: (net, None) for name, (net, _) in features.items()}
    for what, nets in (("features", features), ("scores", scores)):
        curves = translation_curves(nets, images, shifts)
        save(arguments.output / f"translation_{what}.png", plot.translation(shifts, curves, what))
        for name, curve in curves.items():
            print(f"  {name}: half way to another image at {inspect.half_way(shifts, curve):.1f} pixels")


def default_dataset() -> str:
    """Fashion-MNIST if the folder that GPUNET_DATA names holds it, else the digits."""
    folder = os.environ.get("GPUNET_DATA")
    return "fashion_mnist" if folder and (Path(folder) / "fashion-mnist").is_dir() else "digits"


def save(path: Path, figure: Any) -> None:
    """Write a figure, on rank 0 alone, and say where."""
    if world().leads:
        figure.savefig(path, bbox_inches="tight")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
