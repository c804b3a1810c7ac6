"""Optimizers and learning-rate schedules: ``from gpunet import optim``."""

from gpunet.optim.optimizer import SGD, Adam, AdamW, Optimizer
from gpunet.optim.schedule import ConstantLR, CosineLR, OneCycleLR, Schedule, StepLR, WarmupLR

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "ConstantLR",
    "CosineLR",
    "OneCycleLR",
    "Optimizer",
    "Schedule",
    "StepLR",
    "WarmupLR",
]
