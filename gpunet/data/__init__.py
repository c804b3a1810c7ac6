"""Data sets, the loaders that make batches of them on the host or on the device, and transforms."""

from gpunet.data.colour import *
from gpunet.data.datasets import *
from gpunet.data.device import *
from gpunet.data.episodes import *
from gpunet.data.joint import *
from gpunet.data.loader import *
from gpunet.data.mixup import *
from gpunet.data.readers.annotations import *
from gpunet.data.readers.coco import *
from gpunet.data.readers.folders import *
from gpunet.data.readers.masks import *
from gpunet.data.readers.nuclei import *
from gpunet.data.readers.omniglot import *
from gpunet.data.readers.shard_writing import *
from gpunet.data.readers.shards import *
from gpunet.data.readers.standard import *
from gpunet.data.readers.voc import *
from gpunet.data.sampling import *
from gpunet.data.transforms import *
from gpunet.data.warp import *
