"""Images and what networks make of them: ``from gpunet.vision import filters, inspect, plot``."""

from gpunet.vision import filters, inspect, plot

__all__ = ["filters", "inspect", "plot"]
