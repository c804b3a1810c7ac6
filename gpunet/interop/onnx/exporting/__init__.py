"""An ONNX file made of a model: its operations are traced and translated into nodes."""
