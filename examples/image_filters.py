"""Apply image filters to a photograph, and write one picture with all of them.

    python image_filters.py
    python image_filters.py my_photo.jpg --output filtered.png

Most filters are a small matrix, with which gpunet's depthwise convolution is computed. The matrix
is drawn in the corner of the picture: red is above 0, blue below. Without a photograph of yours,
the script takes one that comes with scikit-image.
"""

import argparse
from pathlib import Path

import numpy as np

from gpunet import BackendError
from gpunet.data.readers.images import read_image
from gpunet.distributed import world
from gpunet.vision import filters, plot


def photograph(path: str | None, extent: int) -> np.ndarray:
    """Read a photograph as (H, W, 3) uint8, its longer side scaled down to `extent` pixels."""
    if path is None:
        try:
            from skimage import data
        except ImportError as error:
            raise ImportError('name a photograph, or pip install "gpunet[examples]" for scikit-image\'s') from error
        return data.astronaut()[:400, 30:430]
    image = read_image(path)
    h, w = image.shape[:2]
    scale = min(1, extent / max(h, w))
    return image if scale == 1 else read_image(path, (max(1, round(h * scale)), max(1, round(w * scale))))


def speckled(photo: np.ndarray) -> np.ndarray:
    """The photograph with one pixel in twenty black and one in twenty white."""
    drawn = np.random.default_rng(0).random((*photo.shape[:2], 1))
    return np.where(drawn < 0.05, 0, np.where(drawn > 0.95, 255, photo)).astype(np.uint8)


def panels(photo: np.ndarray, backend: str) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """The filtered pictures by title, each with its matrix, or None if there is not just one.

    Edges are computed as floats, because a byte holds neither their sign nor their size.
    """
    grey = photo.mean(axis=-1, keepdims=True, dtype=np.float32)
    specks = speckled(photo)
    return {
        "identity": (filters.identity(photo, backend=backend), filters.kernel("identity")),
        "box blur, 9x9": (filters.box_blur(photo, 9, backend=backend), filters.kernel("box", size=9)),
        "Gaussian blur, sigma 3": (
            filters.gaussian_blur(photo, 3.0, backend=backend),
            filters.kernel("gaussian", sigma=3.0),
        ),
        "motion blur, 21 pixels at 30°": (
            filters.motion_blur(photo, 21, 30.0, backend=backend),
            filters.kernel("motion", length=21, angle=30.0),
        ),
        "sharpen": (filters.sharpen(photo, backend=backend), filters.kernel("sharpen")),
        "emboss": (filters.emboss(photo, backend=backend), filters.kernel("emboss")),
        "Sobel, horizontal slope": (
            128 + filters.apply(grey, "sobel_x", backend=backend) / 4,
            filters.kernel("sobel_x"),
        ),
        "Sobel, strength": (filters.sobel(grey, backend=backend) / 2, None),
        "Prewitt, strength": (filters.prewitt(grey, backend=backend) / 1.5, None),
        "Laplacian": (128 + filters.laplacian(grey, backend=backend), filters.kernel("laplacian")),
        "with specks": (specks, None),
        "median of the specks, 3x3": (filters.median(specks, 3), None),  # always on the host
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photograph", nargs="?", help="an image file; default: scikit-image's astronaut")
    parser.add_argument("--output", type=Path, default=Path("runs/image_filters.png"), metavar="FILE.png")
    parser.add_argument(
        "--extent", type=int, default=512, help="pixels of the longer side; larger ones are scaled down"
    )
    parser.add_argument("--backend", default="numpy", help="numpy, cuda or reference")
    arguments = parser.parse_args()
    if not world().leads:  # ranks share what a Trainer does, and there is none here
        return
    if arguments.extent < 64:
        parser.error("--extent must be at least 64")

    try:
        photo = photograph(arguments.photograph, arguments.extent)
        filtered = panels(photo, arguments.backend)
    except (ImportError, OSError, ValueError, BackendError) as error:
        parser.error(str(error))
    pictures = [np.clip(picture, 0, 255).astype(np.uint8) for picture, _ in filtered.values()]
    figure = plot.images(pictures, list(filtered), columns=4, size=2.6)
    for ax, (_, matrix) in zip(figure.axes, filtered.values(), strict=False):
        if matrix is not None:
            corner = ax.inset_axes((0.02, 0.02, 0.22, 0.22))
            bound = np.abs(matrix).max()
            corner.imshow(matrix, cmap=plot.SIGNED, vmin=-bound, vmax=bound)
            corner.set(xticks=[], yticks=[])
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output, bbox_inches="tight")
    print(f"{len(filtered)} pictures of {photo.shape[0]}x{photo.shape[1]} pixels in {arguments.output}")


if __name__ == "__main__":
    main()
