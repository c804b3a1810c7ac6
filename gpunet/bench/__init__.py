"""Benchmarks, as commands: ``gpunet bench step --against torch``."""


class NotMeasuredError(Exception):
    """A contender cannot do this work here; the message says why, for the record."""
