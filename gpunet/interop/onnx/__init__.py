"""Models to and from ONNX files: ``from gpunet.interop import onnx``."""

from gpunet.interop.onnx.loading import load
from gpunet.interop.onnx.model import OnnxModel

__all__ = ["OnnxModel", "load"]
