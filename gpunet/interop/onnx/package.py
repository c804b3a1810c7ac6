"""What both sides share: the package onnx, or an ImportError that says how to install it, and a name."""

try:
    import onnx
    from onnx import TensorProto, checker, helper
except ImportError as error:
    raise ImportError(f'gpunet.interop.onnx takes the package onnx: pip install "gpunet[onnx]" ({error})') from error

LAYOUT_KEY = "layout"
"""The key of a file's metadata for the order of axes at its inputs and outputs."""

__all__ = ["LAYOUT_KEY", "TensorProto", "checker", "helper", "onnx"]
