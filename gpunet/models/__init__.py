"""Networks by name."""

from gpunet.models.classifiers import cnn, lenet
from gpunet.models.fast_cifar import speedrun, whiten, whitening_filters
from gpunet.models.residual import resnet9
from gpunet.models.siamese import Siamese, conv4, koch
from gpunet.models.unet import UNet
from gpunet.models.vgg import vgg11
from gpunet.models.yolo import YOLO

__all__ = [
    "YOLO",
    "Siamese",
    "UNet",
    "cnn",
    "conv4",
    "koch",
    "lenet",
    "resnet9",
    "speedrun",
    "vgg11",
    "whiten",
    "whitening_filters",
]
