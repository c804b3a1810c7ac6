"""The table from gpunet's operations to ONNX nodes, one file for each kind of operation."""

from gpunet.interop.onnx.exporting.translate import elementwise, layers, movement, norms, reductions, resample
from gpunet.interop.onnx.exporting.translate.step import Step, Table, UntranslatableError

TRANSLATIONS: Table = {
    **elementwise.TABLE,
    **layers.TABLE,
    **movement.TABLE,
    **norms.TABLE,
    **reductions.TABLE,
    **resample.TABLE,
}
"""How each operation becomes nodes, by the operation's name."""

__all__ = ["TRANSLATIONS", "Step", "UntranslatableError"]
