"""What of the package onnx is used here; an ImportError that says how to install it."""

try:
    import onnx
    from onnx import TensorProto, checker, helper
except ImportError as error:
    raise ImportError(f'gpunet.interop.onnx takes the package onnx: pip install "gpunet[onnx]" ({error})') from error

__all__ = ["TensorProto", "checker", "helper", "onnx"]
