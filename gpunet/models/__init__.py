"""Networks by name."""

from gpunet.models.classifiers import cnn, lenet
from gpunet.models.fast_cifar import speedrun, whiten, whitening_filters
from gpunet.models.residual import resnet9
from gpunet.models.vgg import vgg11

__all__ = ["cnn", "lenet", "resnet9", "speedrun", "vgg11", "whiten", "whitening_filters"]
