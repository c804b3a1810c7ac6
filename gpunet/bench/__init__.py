"""Benchmarks, as commands: ``gpunet bench step --against torch``."""


class NotMeasuredError(Exception):
    """A contender cannot do this work here. The message, which goes into the record, says why."""


class ContenderError(Exception):
    """A contender raised, its process ended, or it gave no answer. The message says which."""
