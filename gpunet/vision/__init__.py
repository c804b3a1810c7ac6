"""Images and what networks make of them: ``from gpunet.vision import average_precision, boxes, filters, inspect, plot``."""

from gpunet.vision import average_precision, boxes, filters, inspect, plot

__all__ = ["average_precision", "boxes", "filters", "inspect", "plot"]
