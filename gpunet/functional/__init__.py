"""The public operations on tensors: ``from gpunet import functional as F``.

Each file lists its public operations in its `__all__`.
"""

from gpunet.functional.activation import *
from gpunet.functional.arithmetic import *
from gpunet.functional.conv import *
from gpunet.functional.distance import *
from gpunet.functional.focal import *
from gpunet.functional.indexing import *
from gpunet.functional.loss import *
from gpunet.functional.movement import *
from gpunet.functional.norm import *
from gpunet.functional.operators import bind_operators
from gpunet.functional.overlap import *
from gpunet.functional.pool import *
from gpunet.functional.product import *
from gpunet.functional.reduction import *
from gpunet.functional.regression import *
from gpunet.functional.regularise import *
from gpunet.functional.resample import *
from gpunet.functional.selection import *
from gpunet.functional.terms import *

bind_operators()
