"""Training: the `Trainer` (also ``from gpunet import Trainer``), its callbacks and its metrics."""

from gpunet.train.callbacks import *
from gpunet.train.checkpoints import *
from gpunet.train.history import *
from gpunet.train.hooks import *
from gpunet.train.metrics import *
from gpunet.train.trainer import *
