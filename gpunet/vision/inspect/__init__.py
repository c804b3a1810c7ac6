"""Looking inside a network: its filters, what its layers see, and which pixels a decision rests on.

All functions take a model and images as the model takes them: floats (N, H, W, C), or one image (H,
W, C). Layers are given by their names in ``model.named_modules()``, units by their channel. The
functions run the model in inference mode on its own backend, leave its parameters, gradients and
modes as they were, and return arrays on the host. `gpunet.vision.plot` draws the results.

A layer's output is the output of its module: for ``Conv2d(…, activation="relu", pool=2)`` that is
after the pool. Neighbours in a `Sequential` are not fused while one of them is inspected.
"""

from gpunet.vision.inspect.attribution import grad_cam, occlusion, saliency
from gpunet.vision.inspect.deconvnet import deconvnet
from gpunet.vision.inspect.features import Patches, feature_maps, first_layer_filters, top_patches
from gpunet.vision.inspect.fields import ReceptiveField, receptive_fields
from gpunet.vision.inspect.translation import half_way, translation

__all__ = [
    "Patches",
    "ReceptiveField",
    "deconvnet",
    "feature_maps",
    "first_layer_filters",
    "grad_cam",
    "half_way",
    "occlusion",
    "receptive_fields",
    "saliency",
    "top_patches",
    "translation",
]
