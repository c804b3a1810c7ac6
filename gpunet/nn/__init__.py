"""Layers and networks: ``from gpunet import nn``."""

from gpunet.autograd import Parameter as Parameter
from gpunet.autograd import parameter as parameter
from gpunet.nn import init as init
from gpunet.nn.activation import *
from gpunet.nn.folding import *
from gpunet.nn.layers import *
from gpunet.nn.module import *
from gpunet.nn.norm import *
from gpunet.nn.regularise import *
from gpunet.nn.resample import *
from gpunet.nn.sequential import *
