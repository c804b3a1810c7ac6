"""Models as ONNX files, for other programs and from them; it takes the package onnx."""

from gpunet.interop.onnx.exporting import export

__all__ = ["export"]
