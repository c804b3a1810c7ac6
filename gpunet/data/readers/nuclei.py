"""Cell nuclei in micrographs: images of the 2018 Data Science Bowl, with one mask per nucleus."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from gpunet.data.datasets import ArrayDataset
from gpunet.data.readers.checks import checked_size
from gpunet.data.readers.download import Root, checked_split, find_folder
from gpunet.data.readers.images import read_image
from gpunet.progress import track

__all__ = ["nuclei"]


def nuclei(root: Root = None, split: str = "train", *, size: tuple[int, int] | None = None) -> ArrayDataset:
    """Cell nuclei of the 2018 Data Science Bowl, with a mask for each nucleus.

    Caicedo et al. 2019, "Nucleus segmentation across imaging experiments: the 2018 Data Science
    Bowl".

    Args:
        root: the folder that holds ``dsb2018/stage1_train/ID/images/*.png`` and ``…/masks/*.png``;
            the folder in GPUNET_DATA if None.
        split: "test" is every fifth folder in the order of their names, those with i % 5 == 4;
            "train" is the others.
        size: (height, width) in pixels to scale images (bilinear) and masks (nearest pixel) to. None
            keeps their own, which must be one, as in the subset of 256x256 pixels.
    Returns:
        images (N, H, W, 3) uint8; instances (N, H, W) int64, 0 on the background and 1, 2, … on the
        nuclei, so that ``instances > 0`` is the union of the masks.
    Raises:
        FileNotFoundError: the folder is not there.
        ValueError: another split; a folder without an image or without masks; a mask of another size
            than its image, images of several sizes without `size`, or a file that cannot be read. The message names the file.
    """
    split = checked_split("nuclei", root, split)
    size = None if size is None else checked_size("nuclei", size)
    base = find_folder("nuclei", "dsb2018", root, "https://bbbc.broadinstitute.org/BBBC038") / "stage1_train"
    folders = sorted(path for path in base.glob("*") if path.is_dir() and not path.name.startswith("."))
    chosen = [folder for i, folder in enumerate(folders) if (i % 5 == 4) == (split == "test")]
    if not chosen:
        raise ValueError(f"nuclei: {base} holds too few folders, {len(folders)}, for a {split} split")
    images, instances = zip(
        *(read_nuclei(folder, size) for folder in track(chosen, "reading nuclei", "image")), strict=True
    )
    for folder, image in zip(chosen, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"nuclei: images must be of one size unless size= is given, got {folder} with {image.shape[:2]} and "
                f"{chosen[0]} with {images[0].shape[:2]} (height, width)"
            )
    return ArrayDataset(np.stack(images), np.stack(instances).astype(np.int64))


def read_nuclei(folder: str | os.PathLike[str], size: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(image (H, W, 3) uint8, instances (H, W) int64) of one folder; errors as for `nuclei`."""
    folder = Path(folder)
    pictures, masks = (
        sorted(path for path in (folder / part).glob("*.png") if not path.name.startswith("."))
        for part in ("images", "masks")
    )
    if len(pictures) != 1 or not masks:
        raise ValueError(f"nuclei: {folder} must hold one image and its masks, got {len(pictures)} and {len(masks)}")
    image = read_image(pictures[0])
    instances = np.zeros(image.shape[:2], np.int64)
    for i, path in enumerate(masks, 1):
        mask = read_image(path, grey=True)[..., 0]
        if mask.shape != instances.shape:
            raise ValueError(f"nuclei: mask {path} is {mask.shape} but its image {instances.shape} (height, width)")
        instances[mask > 127] = i
    if size is None or size == instances.shape:
        return image, instances
    height, width = image.shape[:2]
    rows, columns = (np.arange(size[0]) + 0.5) * height / size[0], (np.arange(size[1]) + 0.5) * width / size[1]
    return read_image(pictures[0], size), instances[np.ix_(rows.astype(int), columns.astype(int))]
