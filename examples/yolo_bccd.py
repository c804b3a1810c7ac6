"""Find blood cells with a small YOLO, and measure COCO's mean average precision.

    python yolo_bccd.py --root path/to/data           # the folder that holds BCCD
    python yolo_bccd.py --epochs 5 --output runs/cells

The script prints mAP, mAP@0.5, and AP@0.5 of each class. It draws the boxes found in some test
images, OUTPUT/cells.png, and writes the annotated boxes of the test set as COCO JSON,
OUTPUT/test.json.
"""

import argparse
from pathlib import Path

import numpy as np

import gpunet as gp
from gpunet import data, models, optim
from gpunet.distributed import world
from gpunet.vision import boxes as box_arrays
from gpunet.vision.average_precision import Detections, mean_average_precision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder that holds BCCD; default: the folder that GPUNET_DATA names")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument(
        "--size", type=int, nargs=2, default=(192, 256), help="height and width that images are scaled to"
    )
    parser.add_argument("--anchors", type=int, default=5, help="number of anchor boxes, which the training boxes give")
    parser.add_argument("--width", type=int, default=12, help="channels of the first convolution")
    parser.add_argument("--backend", default="auto", help="numpy, cuda, reference or auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/cells"))
    arguments = parser.parse_args()

    leads = world().leads  # under mpirun the ranks meet here, and only rank 0 prints and writes files
    gp.seed(arguments.seed)
    size = tuple(arguments.size)
    train_files = data.bccd(arguments.root, "trainval", size=size)
    test_files = data.bccd(arguments.root, "test", size=size)
    # All files are decoded once: images (N, H, W, 3), boxes (N, K, 4), and labels (N, K), which are
    # -1 where an image has fewer than K boxes.
    train_set = data.ArrayDataset(*train_files[np.arange(len(train_files))])
    test_set = data.ArrayDataset(*test_files[np.arange(len(test_files))])
    images, boxes, labels = train_set.arrays
    real = boxes[labels >= 0]
    anchors = box_arrays.anchors(real[:, 2:] - real[:, :2], arguments.anchors)
    print("anchors (width, height):", "  ".join(f"{w:.0f}x{h:.0f}" for w, h in anchors))

    model = models.YOLO(anchors, len(train_files.classes), base_channels=arguments.width)
    print(gp.summary(model, (*size, 3)))
    normalize = data.Normalize(images.mean(axis=(0, 1, 2)) / 255, images.std(axis=(0, 1, 2)) / 255)
    transforms = [
        data.RandomAffine(translate=0.1, scale=(0.8, 1.2), border="edge"),
        data.RandomHorizontalFlip(),
        data.RandomVerticalFlip(),
        data.ColorJitter(brightness=0.2, contrast=0.2),
        normalize,
    ]
    # Joint moves the boxes, which stand at 1 in a batch, with the images; then they become the
    # net's targets.
    train_transform = data.Compose([data.Joint(transforms, boxes=(1,)), model.targets(size)])
    train_loader = data.DataLoader(train_set, 8, shuffle=True, transform=train_transform)
    optimizer = optim.Adam(model.parameters(), lr=1e-3, clip_norm=10.0)
    schedule = optim.OneCycleLR(optimizer, max_lr=1e-3, total_steps=arguments.epochs * len(train_loader))
    trainer = gp.Trainer(model, optimizer, loss=model.loss, metrics=[], schedule=schedule, backend=arguments.backend)
    trainer.fit(train_loader, epochs=arguments.epochs)

    outputs = trainer.predict(data.DataLoader(test_set, 8, transform=normalize))
    found = model.detect(outputs)
    test_images, test_boxes, test_labels = test_set.arrays
    truth = list(zip(test_boxes, test_labels, strict=True))
    figures = mean_average_precision(found, truth, test_files.classes)

    if leads:
        arguments.output.mkdir(parents=True, exist_ok=True)
        draw(arguments.output / "cells.png", test_images, found, test_files.classes)
        base = test_files.annotations[0].path.parent
        data.write_coco(arguments.output / "test.json", test_files.annotations, test_files.classes, images=base)
    print(f"test images: {len(test_images)}; written: {arguments.output}/cells.png, {arguments.output}/test.json")
    print(", ".join(f"{name}: {value:.3f}" for name, value in figures.items()))


def draw(path: Path, images: np.ndarray, found: list[Detections], classes: tuple[str, ...], least: float = 0.3) -> None:
    """Draw six test images with the boxes whose score is at least `least`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle

    colours = ("red", "blue", "lime", "orange", "magenta")
    figure, axes = pyplot.subplots(2, 3, figsize=(12, 6.8), squeeze=False, layout="constrained")
    for axis in axes.ravel():
        axis.axis("off")
    for i, axis in zip(range(len(images)), axes.ravel(), strict=False):
        axis.imshow(images[i])
        for (x0, y0, x1, y1), score, label in zip(*found[i], strict=True):
            if score >= least:
                colour = colours[label % len(colours)]
                axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1.2))
        axis.set_title(f"test image {i}")
    names = ", ".join(f"{name} {colours[i % len(colours)]}" for i, name in enumerate(classes))
    figure.suptitle(f"Boxes found with a score of at least {least}: {names}")
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
