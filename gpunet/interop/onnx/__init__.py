"""Models as ONNX files, for other programs and from them; it takes the package onnx."""

from gpunet.interop.onnx.exporting import export
from gpunet.interop.onnx.loading import load
from gpunet.interop.onnx.model import OnnxModel

__all__ = ["OnnxModel", "export", "load"]
