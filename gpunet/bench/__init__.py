"""Benchmarks, as commands: ``gpunet bench step --against torch``."""


class NotMeasuredError(Exception):
    """A contender cannot do this work here; the message says why, for the record."""


class ContenderError(Exception):
    """A contender failed: it raised, its process ended or it gave no answer; the message says how, for the record."""
