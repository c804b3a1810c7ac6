"""Find the pixels of cell nuclei with a small U-Net, beside Otsu's threshold on the same held-out images.

    python fcn_nuclei.py --root path/to/data          # the folder that holds dsb2018/stage1_train
    python fcn_nuclei.py --epochs 5 --width 4 --output runs/nuclei

Prints the intersection over union of the foreground, its mean over the test images, of both, and the net's with the best
threshold of each image; draws the outlines of what the net found over some of them: OUTPUT/nuclei.png; saves the net:
OUTPUT/net.safetensors.
"""

import argparse
from pathlib import Path

import numpy as np

import gpunet as gp
from gpunet import data, models, optim
from gpunet import functional as F


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder that holds dsb2018; default: what GPUNET_DATA names")
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--width", type=int, default=12, help="channels of the first level")
    parser.add_argument("--depth", type=int, default=5, help="how many times the images are halved")
    parser.add_argument(
        "--crop", type=int, default=128, help="extent of the parts it is trained on, a multiple of 2^depth"
    )
    parser.add_argument("--backend", default="auto", help="numpy, cuda, reference or auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/nuclei"))
    arguments = parser.parse_args()

    gp.seed(arguments.seed)
    # Images (N, H, W, 3) and instances (N, H, W), 1, 2, … on the nuclei: here only nucleus or not counts
    (images, instances), (test_images, test_instances) = (
        data.nuclei(arguments.root, s).arrays for s in ("train", "test")
    )
    nucleus = instances > 0
    train_set = data.ArrayDataset(stretched(images), nucleus.astype(np.int64), nucleus.astype(np.float32))
    truth = test_instances > 0

    normalize = data.Normalize(mean=0.07, std=0.13)
    places = [data.RandomCrop(arguments.crop), data.RandomHorizontalFlip(), data.RandomVerticalFlip()]
    colours = [data.ColorJitter(brightness=0.2, contrast=0.2)]
    loader = data.DataLoader(
        train_set, 8, shuffle=True, transform=data.Joint([*places, *colours, normalize], masks=(1, 2))
    )

    model = models.UNet(3, 2, base_channels=arguments.width, depth=arguments.depth, batch_norm=True)
    optimizer = optim.Adam(model.parameters(), lr=5e-3)
    schedule = optim.OneCycleLR(optimizer, total=arguments.epochs * len(loader))
    print(model.summary((arguments.crop, arguments.crop, 3)))

    def step(model: gp.nn.Module, batch: tuple) -> gp.Tensor:
        pixels, labels, masks = batch
        logits = model(pixels)
        return F.cross_entropy(logits, labels) + F.dice_loss(F.softmax(logits)[..., 1], masks)

    trainer = gp.Trainer(model, optimizer, step=step, schedule=schedule, backend=arguments.backend)
    trainer.fit(loader, epochs=arguments.epochs)

    (pixels,) = normalize((stretched(test_images),), indices=np.arange(len(test_images)), epoch=0, seed=0)
    scores = turned_mean(trainer, pixels)
    found = scores > 0
    thresholded = np.stack([otsu(image) for image in test_images])
    by_net, by_otsu = intersection_over_union(found, truth), intersection_over_union(thresholded, truth)
    # Whoever drew the masks drew some wide and some tight: what the net would reach if it knew
    informed = np.max([intersection_over_union(scores > level, truth) for level in np.linspace(-8, 8, 81)], axis=0)

    arguments.output.mkdir(parents=True, exist_ok=True)
    trainer.save(arguments.output / "net.safetensors")
    draw(arguments.output / "nuclei.png", test_images, truth, found, by_net)
    print(f"test images: {len(truth)}; written: {arguments.output}/nuclei.png, {arguments.output}/net.safetensors")
    print(f"foreground IoU: Otsu {by_otsu.mean():.3f}, U-Net {by_net.mean():.3f}")
    print(f"with the best threshold of each image, looked up in its mask: {informed.mean():.3f}")


def turned_mean(trainer: gp.Trainer, pixels: np.ndarray) -> np.ndarray:
    """(N, H, W): by how much the logit of a nucleus exceeds the background's, the mean over the images (N, H, W, 3) as they
    are, mirrored, and turned by quarters: what an image shows does not depend on how it lies."""
    total = np.zeros(pixels.shape[:3], np.float32)
    for quarter in range(4):
        for side in (1, -1):
            turned = np.ascontiguousarray(np.rot90(pixels, quarter, axes=(1, 2))[:, :, ::side])
            logits = trainer.predict(turned, batch_size=4)
            total += np.rot90((logits[..., 1] - logits[..., 0])[:, :, ::side], -quarter, axes=(1, 2))
    return total / 8


def intersection_over_union(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N,) of masks (N, H, W); 1 where both are empty."""
    union = (found | truth).sum(axis=(1, 2))
    return np.where(union > 0, (found & truth).sum(axis=(1, 2)) / np.maximum(union, 1), 1.0)


def otsu(image: np.ndarray) -> np.ndarray:
    """Bright part (H, W) of an image (H, W, 3), by the threshold of the largest variance between its two sides (Otsu 1979).

    As scikit-image's threshold_otsu does it: of 256 bins from the darkest to the brightest pixel.
    """
    grey = image @ [0.2125, 0.7154, 0.0721]
    counts, edges = np.histogram(grey, bins=256)
    centres = (edges[1:] + edges[:-1]) / 2
    below, moment = counts.cumsum()[:-1], (counts * centres).cumsum()
    above = grey.size - below
    between = below * above * (moment[:-1] / below - (moment[-1] - moment[:-1]) / above) ** 2
    return grey > centres[between.argmax()]


def stretched(images: np.ndarray) -> np.ndarray:
    """Each image's grey levels, from its darkest to its 99.8th percentile, spread over 0 to 255: some are very dark."""
    low, high = np.percentile(images, [0, 99.8], axis=(1, 2, 3), keepdims=True)
    return np.rint((images - low) / np.maximum(high - low, 1) * 255).clip(0, 255).astype(np.uint8)


def draw(path: Path, images: np.ndarray, truth: np.ndarray, found: np.ndarray, scores: np.ndarray) -> None:
    """The worst, the median and the best of the images, with the outlines of the truth (green) and of what was found."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    order = scores.argsort()
    chosen = order[np.linspace(0, len(order) - 1, min(6, len(order))).round().astype(int)]
    figure, axes = pyplot.subplots(2, 3, figsize=(12, 8.4), squeeze=False, layout="constrained")
    for axis in axes.ravel():
        axis.axis("off")
    for axis, i in zip(axes.ravel(), chosen, strict=False):
        axis.imshow(stretched(images[i : i + 1])[0])
        for mask, colour in ((truth[i], "lime"), (found[i], "red")):
            if mask.any() and not mask.all():
                axis.contour(mask, levels=[0.5], colors=colour, linewidths=0.9)
        axis.set_title(f"test image {i}: IoU {scores[i]:.2f}")
    figure.suptitle("Outlines of nuclei: green as annotated, red as found")
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
