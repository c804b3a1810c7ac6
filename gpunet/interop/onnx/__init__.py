"""Models as ONNX files, for other programs and from them; it takes the package onnx."""

from gpunet.interop.onnx.exporting.file import export
from gpunet.interop.onnx.loading.file import load
from gpunet.interop.onnx.loading.model import OnnxModel

__all__ = ["OnnxModel", "export", "load"]
