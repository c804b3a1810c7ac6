"""Batches from folders of JPEG images, in gpunet and in PyTorch."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from time import perf_counter
from typing import Any

import numpy as np

from gpunet import data
from gpunet.bench import NotMeasuredError
from gpunet.bench.contenders import Spec
from gpunet.version import __version__

CLASSES = 4
QUALITY = 90
"""The quality of the JPEG images, as cameras store them."""


def write_images(root: Path, side: int, count: int) -> None:
    """Write `count` square images, smooth with some noise, to folders of classes."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(count):
        folder = root / f"class{i % CLASSES}"
        folder.mkdir(exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((side, side))
        noisy = np.asarray(coarse, np.float64) + rng.normal(0, 4, (side, side, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.jpg", quality=QUALITY)


class Loading(ABC):
    """One pass over the images of a folder, decoded and scaled, in batches."""

    def __init__(self, spec: Spec):
        try:
            import PIL  # noqa: F401
        except ImportError as error:
            raise NotMeasuredError(f"Pillow cannot be imported ({error})") from error
        self._threads = spec.threads  # gpunet takes as many by the environment of the process
        self._folder = mkdtemp(prefix="gpunet-bench-")
        weakref.finalize(self, rmtree, self._folder, ignore_errors=True)

    def prepare(self, case: dict[str, Any]) -> dict[str, Any]:
        """See `Contender.prepare`: the result is the mean level of each channel over all images."""
        root = Path(self._folder) / f"{case['side']}-{case['images']}"
        if not root.exists():
            root.mkdir()
            write_images(root, case["side"], case["images"])
        self._images = case["images"]
        self._loader = self.loader(root, case["size"], case["batch"])
        sums = np.zeros(3)
        for images, _ in self._loader:
            sums += self.on_host(images).sum(axis=(0, 1, 2), dtype=np.float64)
        return {"means": (sums / (case["images"] * case["size"] ** 2)).tolist()}

    def time(self, repeats: int) -> list[float]:
        """See `Contender.time`: the seconds of a pass, for each image."""
        seconds = []
        for _ in range(repeats):
            start = perf_counter()
            for _ in self._loader:
                pass
            seconds.append((perf_counter() - start) / self._images)
        return seconds

    @abstractmethod
    def loader(self, root: Path, size: int, batch: int) -> Iterable[Any]:
        """Makes batches (images, labels) of the folder, each image scaled to `size` pixels."""

    @abstractmethod
    def on_host(self, images: Any) -> np.ndarray:
        """Images of a batch, (B, H, W, 3) from 0 to 255."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """See `Contender.describe`."""


class GpunetLoading(Loading):
    """gpunet's `ImageFolder` and `DataLoader`."""

    def loader(self, root: Path, size: int, batch: int) -> Iterable[Any]:
        """See `Loading.loader`."""
        folder = data.ImageFolder(root, (size, size), unreadable="later")
        return data.DataLoader(folder, batch, shuffle=True, seed=0)

    def on_host(self, images: Any) -> np.ndarray:
        """See `Loading.on_host`."""
        return np.asarray(images)

    def describe(self) -> dict[str, str]:
        """See `Contender.describe`."""
        import PIL

        return {"gpunet": __version__, "pillow": PIL.__version__}


class Files:
    """Images as users of PyTorch read them with Pillow, as torchvision does.

    Args:
        root: the folder that holds one folder for each class.
        size: the side to which an image is scaled.
    """

    def __init__(self, root: Path, size: int):
        self._paths, self._size = sorted(root.glob("*/*.jpg")), size
        self._classes = sorted({path.parent.name for path in self._paths})

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        from PIL import Image

        path = self._paths[i]
        with Image.open(path) as image:
            scaled = image.convert("RGB").resize((self._size, self._size), Image.Resampling.BILINEAR)
        return np.array(scaled), self._classes.index(path.parent.name)


class TorchLoading(Loading):
    """PyTorch's `DataLoader`, with a process for each thread.

    Raises:
        NotMeasuredError: PyTorch is not installed.
    """

    def __init__(self, spec: Spec):
        super().__init__(spec)
        try:
            import torch
            from torch.utils.data import DataLoader
        except ImportError as error:
            raise NotMeasuredError(f"PyTorch cannot be imported ({error})") from error
        self._version: str = torch.__version__
        self._make: Any = DataLoader

    def loader(self, root: Path, size: int, batch: int) -> Iterable[Any]:
        """See `Loading.loader`."""
        # A forked process would wait for ever for the lock of standard input, which a thread here reads.
        workers = {"num_workers": self._threads, "persistent_workers": True, "multiprocessing_context": "spawn"}
        made: Iterable[Any] = self._make(Files(root, size), batch, shuffle=True, **workers)
        return made

    def on_host(self, images: Any) -> np.ndarray:
        """See `Loading.on_host`."""
        return np.asarray(images.numpy())

    def describe(self) -> dict[str, str]:
        """See `Contender.describe`."""
        return {"torch": self._version, "workers": str(self._threads)}
