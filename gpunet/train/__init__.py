"""Training: ``from gpunet import Trainer``, and its callbacks and metrics in ``gpunet.train``."""

from gpunet.train.callbacks import BestCheckpoint, Callback, CSVLogger, EarlyStopping, LearningRateMonitor
from gpunet.train.control import SkipStep, StopEpoch, StopTraining
from gpunet.train.history import History
from gpunet.train.metrics import Accuracy, ConfusionMatrix, Metric, TopK
from gpunet.train.progress import ProgressBar
from gpunet.train.trainer import Trainer

__all__ = [
    "Accuracy",
    "BestCheckpoint",
    "CSVLogger",
    "Callback",
    "ConfusionMatrix",
    "EarlyStopping",
    "History",
    "LearningRateMonitor",
    "Metric",
    "ProgressBar",
    "SkipStep",
    "StopEpoch",
    "StopTraining",
    "TopK",
    "Trainer",
]
