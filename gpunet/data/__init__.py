"""Data: data sets, the loaders that make batches of them on the host or on the device, and transforms."""

from gpunet.data.colour import ColorJitter, GaussianNoise
from gpunet.data.datasets import ArrayDataset, Dataset, Subset, random_split
from gpunet.data.device import DeviceLoader
from gpunet.data.idx import read_idx
from gpunet.data.images import ImageFolder
from gpunet.data.joint import Joint
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
from gpunet.data.warp import RandomAffine, RandomResizedCrop

__all__ = [
    "AlternatingFlip",
    "ArrayDataset",
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "Cutout",
    "DataLoader",
    "Dataset",
    "DeviceLoader",
    "GaussianNoise",
    "ImageFolder",
    "Joint",
    "Normalize",
    "RandomAffine",
    "RandomCrop",
    "RandomFlip",
    "RandomResizedCrop",
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
