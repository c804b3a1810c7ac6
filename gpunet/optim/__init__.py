"""Optimizers and learning-rate schedules: ``from gpunet import optim``."""

from gpunet.optim.adam import Adam, AdamW
from gpunet.optim.adaptive import Adagrad, Lion, RMSprop
from gpunet.optim.average import ExponentialMovingAverage
from gpunet.optim.muon import Muon
from gpunet.optim.optimizer import Optimizer
from gpunet.optim.plateau import ReduceLROnPlateau
from gpunet.optim.schedule import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    MultiStepLR,
    OneCycleLR,
    Schedule,
    StepLR,
    WarmupLR,
)
from gpunet.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "ConstantLR",
    "CosineAnnealingLR",
    "ExponentialLR",
    "ExponentialMovingAverage",
    "Lion",
    "MultiStepLR",
    "Muon",
    "OneCycleLR",
    "Optimizer",
    "RMSprop",
    "ReduceLROnPlateau",
    "Schedule",
    "StepLR",
    "WarmupLR",
]
