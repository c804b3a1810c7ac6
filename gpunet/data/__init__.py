"""Data sets, the loaders that make batches of them on the host or on the device, and transforms."""

from gpunet.data.colour import ColorJitter, GaussianNoise
from gpunet.data.datasets import ArrayDataset, Dataset, Subset, random_split
from gpunet.data.device import DeviceLoader
from gpunet.data.episodes import Episodes, Pairs, Triplets
from gpunet.data.joint import Joint
from gpunet.data.loader import DataLoader
from gpunet.data.mixup import Mixup
from gpunet.data.readers.annotations import Annotation, BoxDataset
from gpunet.data.readers.coco import annotate_masks, coco, write_coco
from gpunet.data.readers.folders import ImageFolder, stable_split
from gpunet.data.readers.masks import boxes_of_masks, decode_mask, encode_mask
from gpunet.data.readers.nuclei import nuclei
from gpunet.data.readers.omniglot import Omniglot, omniglot
from gpunet.data.readers.standard import cifar10, digits, fashion_mnist, mnist, read_idx
from gpunet.data.readers.voc import bccd, voc
from gpunet.data.sampling import WeightedRandomSampler, balanced_weights
from gpunet.data.transforms import (
    AlternatingFlip,
    CenterCrop,
    Compose,
    Cutout,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    RandomShift,
    RandomVerticalFlip,
    Transform,
)
from gpunet.data.warp import RandomAffine, RandomResizedCrop

__all__ = [
    "AlternatingFlip",
    "Annotation",
    "ArrayDataset",
    "BoxDataset",
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "Cutout",
    "DataLoader",
    "Dataset",
    "DeviceLoader",
    "Episodes",
    "GaussianNoise",
    "ImageFolder",
    "Joint",
    "Mixup",
    "Normalize",
    "Omniglot",
    "Pairs",
    "RandomAffine",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomShift",
    "RandomVerticalFlip",
    "Subset",
    "Transform",
    "Triplets",
    "WeightedRandomSampler",
    "annotate_masks",
    "balanced_weights",
    "bccd",
    "boxes_of_masks",
    "cifar10",
    "coco",
    "decode_mask",
    "digits",
    "encode_mask",
    "fashion_mnist",
    "mnist",
    "nuclei",
    "omniglot",
    "random_split",
    "read_idx",
    "stable_split",
    "voc",
    "write_coco",
]
