"""Networks by name."""

from gpunet.models.classifiers import cnn, lenet

__all__ = ["cnn", "lenet"]
