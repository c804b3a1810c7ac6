"""gpunet's version, which the package, its commands, its records and its wheel all read here."""

__version__ = "0.2.0"
