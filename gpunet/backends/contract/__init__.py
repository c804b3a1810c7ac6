"""The contract of the backends: the primitives that every side computes, a topic in each file.

A topic has a file of the same name on every side that computes it: `host`, `reference`, `numpy` and
`cuda`. A primitive's docstring here states its formula; the other sides do not repeat it.

Letters of shapes: N images of H x W pixels and C channels, windows of KH x KW, output of OH x OW
pixels, O filters. Layouts are x (N, H, W, C) and w (KH, KW, C // groups, O). An `Array` is a
C-contiguous array of the backend's own kind. Primitives return new arrays unless they are given an
array to write to, and change no other array.

The operations in `gpunet.functional` check what a user gives. Primitives trust extents, axes and
options; on CUDA they check devices, dtypes and shapes. A float32 sum of positive terms is wrong by at
most 1e-6 of itself, however many the terms, in `sum` and in every primitive that sums over samples
or pixels.
"""

from gpunet.backends.contract.activation import *
from gpunet.backends.contract.arrays import *
from gpunet.backends.contract.augment import *
from gpunet.backends.contract.backend import *
from gpunet.backends.contract.conv import *
from gpunet.backends.contract.gradients import *
from gpunet.backends.contract.linear import *
from gpunet.backends.contract.loss import *
from gpunet.backends.contract.matmul import *
from gpunet.backends.contract.norm import *
from gpunet.backends.contract.real import *
from gpunet.backends.contract.update import *
