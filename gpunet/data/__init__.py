"""Data: data sets, the loaders that make batches of them on the host or on the device, and transforms."""

from gpunet.data.datasets import ArrayDataset, Dataset, Subset, random_split
from gpunet.data.device import DeviceLoader
from gpunet.data.idx import read_idx
from gpunet.data.images import ImageFolder
from gpunet.data.loader import DataLoader
from gpunet.data.standard import cifar10, digits, fashion_mnist, mnist
from gpunet.data.transforms import (
    AlternatingFlip,
    CenterCrop,
    Compose,
    Cutout,
    Normalize,
    RandomCrop,
    RandomFlip,
    RandomShift,
    RandomVerticalFlip,
    Transform,
)

__all__ = [
    "AlternatingFlip",
    "ArrayDataset",
    "CenterCrop",
    "Compose",
    "Cutout",
    "DataLoader",
    "Dataset",
    "DeviceLoader",
    "ImageFolder",
    "Normalize",
    "RandomCrop",
    "RandomFlip",
    "RandomShift",
    "RandomVerticalFlip",
    "Subset",
    "Transform",
    "cifar10",
    "digits",
    "fashion_mnist",
    "mnist",
    "random_split",
    "read_idx",
]
