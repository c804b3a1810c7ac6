"""Optimizers and learning-rate schedules: ``from gpunet import optim``."""

from gpunet.optim.adam import *
from gpunet.optim.adaptive import *
from gpunet.optim.average import *
from gpunet.optim.muon import *
from gpunet.optim.optimizer import *
from gpunet.optim.plateau import *
from gpunet.optim.schedule import *
from gpunet.optim.sgd import *
