"""Networks by name."""

from gpunet.models.alexnet import alexnet
from gpunet.models.classifiers import cnn, lenet
from gpunet.models.fast_cifar import speedrun, whiten, whitening_filters
from gpunet.models.mobilenet import mobilenet
from gpunet.models.residual import BasicBlock, resnet9, resnet18, resnet34
from gpunet.models.siamese import Siamese, conv4, koch
from gpunet.models.unet import UNet
from gpunet.models.vgg import vgg11, vgg16
from gpunet.models.yolo import YOLO

__all__ = [
    "YOLO",
    "BasicBlock",
    "Siamese",
    "UNet",
    "alexnet",
    "cnn",
    "conv4",
    "koch",
    "lenet",
    "mobilenet",
    "resnet9",
    "resnet18",
    "resnet34",
    "speedrun",
    "vgg11",
    "vgg16",
    "whiten",
    "whitening_filters",
]
