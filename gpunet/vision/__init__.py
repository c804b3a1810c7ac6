"""Image filters, looking inside networks, pictures of both, boxes and average precision."""

from gpunet.vision import average_precision, boxes, filters, inspect, plot

__all__ = ["average_precision", "boxes", "filters", "inspect", "plot"]
