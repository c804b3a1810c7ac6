"""Networks by name."""

from gpunet.models.classifiers import cnn, lenet
from gpunet.models.residual import resnet9
from gpunet.models.vgg import vgg11

__all__ = ["cnn", "lenet", "resnet9", "vgg11"]
