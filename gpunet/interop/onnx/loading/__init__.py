"""A model made of an ONNX file: the file is read, its nodes become operators of gpunet."""
