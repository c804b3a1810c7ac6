"""Every tolerance of the suite. An error is ‖a - b‖ / ‖b‖ over all elements, unless a line says otherwise.

Those of kernels are `gpunet check`'s.
"""

from gpunet.check.compare import TOLERANCES

GRADIENT = 1e-6
"""Directional finite differences against a backward pass, in float64; relative to the larger of both."""
FLOAT32_GRADIENT = 2e-6
"""A gradient in float32 against the reference in float64, on the same float32 inputs."""
BACKENDS = {"float64": 1e-12, "float32": TOLERANCES["float32"]}
"""A primitive of one backend against the reference, by dtype."""
NARROW = {dtype: TOLERANCES[dtype] for dtype in ("float16", "bfloat16")}
"""A kernel that stores 16 bits against the reference in float64, on inputs of those bits: what rounding its float32 sum once,
to the nearest, can cost. The same bound holds for each element alone."""
ORACLE = {"float64": 1e-12, "float32": 1e-6}
"""An operation against SciPy, NumPy or a formula computed in float64, by dtype of the inputs."""
UPDATE = {"float64": 1e-12, "float32": 2e-6}
"""Parameters after some steps of an optimizer against a formula computed in float64."""
TORCH = 1e-5
"""An operation in float32 against PyTorch's in float64; or `TORCH_FACTOR` times PyTorch's own error, if that is more."""
TORCH_FACTOR = 2.0
TORCH_UPDATE = 1e-12
"""Parameters after 20 steps of an optimizer in float64 against PyTorch's."""
TORCH_MUON = 1e-10
"""The same of Muon, whose iteration carries rounding on, and which PyTorch starts from another smallest norm."""
TORCH_LOSS_CURVE = 1e-4
"""Each loss of 50 steps of training in float32 against PyTorch's, relative to that loss."""
LOSS_CURVE = 1e-5
"""Each loss of some steps of training on two backends, relative to that loss."""
NARROW_LOSS_CURVE = 4.0
"""How far the losses of some steps of training that stores 16 bits may lie from float32's, in units of how far they lie where
float32 starts from parameters that are off by as much as 16 bits round. Paths part, so there is no bound without a net."""
