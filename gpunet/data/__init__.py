"""Data: data sets, the loader that makes batches of them, and transforms. Batches are tuples of host NumPy arrays."""

from gpunet.data.datasets import ArrayDataset, Dataset, Subset, random_split
from gpunet.data.idx import read_idx
from gpunet.data.images import ImageFolder
from gpunet.data.loader import DataLoader
from gpunet.data.standard import cifar10, digits, fashion_mnist, mnist
from gpunet.data.transforms import (
    Compose,
    Normalize,
    RandomFlip,
    RandomShift,
    Transform,
    normalize,
    random_flip,
    random_shift,
)

__all__ = [
    "ArrayDataset",
    "Compose",
    "DataLoader",
    "Dataset",
    "ImageFolder",
    "Normalize",
    "RandomFlip",
    "RandomShift",
    "Subset",
    "Transform",
    "cifar10",
    "digits",
    "fashion_mnist",
    "mnist",
    "normalize",
    "random_flip",
    "random_shift",
    "random_split",
    "read_idx",
]
