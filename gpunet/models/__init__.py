"""Networks by name."""

from gpunet.models.alexnet import *
from gpunet.models.classifiers import *
from gpunet.models.fast_cifar import *
from gpunet.models.mobilenet import *
from gpunet.models.rebuilding import *
from gpunet.models.residual import *
from gpunet.models.siamese import *
from gpunet.models.unet import *
from gpunet.models.vgg import *
from gpunet.models.yolo import *
