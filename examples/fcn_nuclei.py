"""Find the pixels of cell nuclei with a small U-Net, and compare it with Otsu's threshold on
held-out images.

    python fcn_nuclei.py --root path/to/data          # the folder that holds dsb2018/stage1_train
    python fcn_nuclei.py --epochs 5 --width 4 --output runs/nuclei

The script prints the mean over the test images of the foreground's intersection over union, for
both methods, and for the net with the best threshold of each image. It draws the outlines of the
nuclei found in some images, OUTPUT/nuclei.png, and saves the net, OUTPUT/net.safetensors.
"""

import argparse
from pathlib import Path

import numpy as np

import gpunet as gp
from gpunet import data, models, optim
from gpunet import functional as F
from gpunet.distributed import world


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder that holds dsb2018; default: the folder that GPUNET_DATA names")
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--width", type=int, default=12, help="channels of the first level")
    parser.add_argument("--depth", type=int, default=5, help="how many times the net halves an image")
    parser.add_argument(
        "--crop", type=int, default=128, help="height and width of the training crops, a multiple of 2^depth"
    )
    parser.add_argument("--backend", default="auto", help="numpy, cuda, reference or auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/nuclei"))
    arguments = parser.parse_args()

    leads = world().leads  # under mpirun the ranks meet here, and only rank 0 prints and writes files
    gp.seed(arguments.seed)
    # Images (N, H, W, 3), and instances (N, H, W): 0 on the background, 1, 2, … on the nuclei. The
    # net only has to tell nuclei from the background.
    images, instances = data.nuclei(arguments.root, "train").arrays
    test_images, test_instances = data.nuclei(arguments.root, "test").arrays
    nucleus = instances > 0
    truth = test_instances > 0
    # The cross entropy takes the masks as class numbers, the Dice loss as probabilities.
    train_set = data.ArrayDataset(stretched(images), nucleus.astype(np.int64), nucleus.astype(np.float32))

    normalize = data.Normalize(mean=0.07, std=0.13)
    transforms = [
        data.RandomCrop(arguments.crop),
        data.RandomHorizontalFlip(),
        data.RandomVerticalFlip(),
        data.ColorJitter(brightness=0.2, contrast=0.2),
        normalize,
    ]
    # Joint crops and flips the masks, which stand at 1 and 2 in a batch, together with the images.
    loader = data.DataLoader(train_set, 8, shuffle=True, transform=data.Joint(transforms, masks=(1, 2)))

    model = models.UNet(3, 2, base_channels=arguments.width, depth=arguments.depth, batch_norm=True)
    optimizer = optim.Adam(model.parameters(), lr=5e-3)
    schedule = optim.OneCycleLR(optimizer, max_lr=5e-3, total_steps=arguments.epochs * len(loader))
    print(gp.summary(model, (arguments.crop, arguments.crop, 3)))

    def step(model: gp.nn.Module, batch: tuple) -> gp.Tensor:
        pixels, labels, masks = batch
        logits = model(pixels)
        return F.cross_entropy(logits, labels) + F.dice_loss(F.softmax(logits)[..., 1], masks)

    trainer = gp.Trainer(model, optimizer, loss_step=step, schedule=schedule, backend=arguments.backend)
    trainer.fit(loader, epochs=arguments.epochs)

    (pixels,) = normalize((stretched(test_images),), indices=np.arange(len(test_images)), epoch=0, seed=0)
    scores = scores_over_orientations(trainer, pixels)
    found = scores > 0
    thresholded = np.stack([otsu(image) for image in test_images])
    by_net, by_otsu = intersection_over_union(found, truth), intersection_over_union(thresholded, truth)
    # Some masks were drawn wide and some tight. This is what the net would reach if it knew how
    # wide each one is.
    informed = np.max([intersection_over_union(scores > level, truth) for level in np.linspace(-8, 8, 81)], axis=0)

    trainer.save(arguments.output / "net.safetensors")  # it makes the folder
    if leads:
        draw(arguments.output / "nuclei.png", test_images, truth, found, by_net)
    print(f"test images: {len(truth)}; written: {arguments.output}/nuclei.png, {arguments.output}/net.safetensors")
    print(f"foreground IoU: Otsu {by_otsu.mean():.3f}, U-Net {by_net.mean():.3f}")
    print(f"with the best threshold of each image, looked up in its mask: {informed.mean():.3f}")


def scores_over_orientations(trainer: gp.Trainer, pixels: np.ndarray) -> np.ndarray:
    """Logit of a nucleus minus logit of the background, for images (N, H, W, 3) -> (N, H, W).

    It is the mean over the eight orientations of an image (mirrored or not, turned by quarters),
    because micrographs have no upright position.
    """
    total = np.zeros(pixels.shape[:3], np.float32)
    for quarter in range(4):
        for direction in (1, -1):
            oriented = np.ascontiguousarray(np.rot90(pixels, quarter, axes=(1, 2))[:, :, ::direction])
            logits = trainer.predict(oriented, batch_size=4)
            scores = logits[..., 1] - logits[..., 0]
            total += np.rot90(scores[:, :, ::direction], -quarter, axes=(1, 2))
    return total / 8


def intersection_over_union(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union of each pair of masks (N, H, W) -> (N,), which is 1 where both are
    empty."""
    union = (found | truth).sum(axis=(1, 2))
    return np.where(union > 0, (found & truth).sum(axis=(1, 2)) / np.maximum(union, 1), 1.0)


def otsu(image: np.ndarray) -> np.ndarray:
    """Bright part (H, W) of an image (H, W, 3).

    The threshold maximises the variance between the two classes (Otsu 1979), over 256 bins from the
    darkest to the brightest pixel, as in scikit-image's threshold_otsu.
    """
    grey = image @ [0.2125, 0.7154, 0.0721]
    counts, edges = np.histogram(grey, bins=256)
    centres = (edges[1:] + edges[:-1]) / 2
    below, moment = counts.cumsum()[:-1], (counts * centres).cumsum()
    above = grey.size - below
    between = below * above * (moment[:-1] / below - (moment[-1] - moment[:-1]) / above) ** 2
    return grey > centres[between.argmax()]


def stretched(images: np.ndarray) -> np.ndarray:
    """Spread the levels of each image (N, H, W, 3), up to their 99.8th percentile, over 0 to 255:
    some images are dark."""
    low, high = np.percentile(images, [0, 99.8], axis=(1, 2, 3), keepdims=True)
    return np.rint((images - low) / np.maximum(high - low, 1) * 255).clip(0, 255).astype(np.uint8)


def draw(path: Path, images: np.ndarray, truth: np.ndarray, found: np.ndarray, scores: np.ndarray) -> None:
    """Draw six images from the worst to the best, with the outlines as annotated (green) and as
    found (red)."""
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
