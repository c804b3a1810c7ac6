"""Benchmarks, as commands: ``gpunet bench step --against torch``."""
