"""Training: ``from gpunet import Trainer``, and its callbacks and metrics in ``gpunet.train``."""

from gpunet.train.callbacks import BestCheckpoint, Callback, CSVLogger, EarlyStopping, LearningRateMonitor
from gpunet.train.control import SkipStep, StopEpoch, StopTraining
from gpunet.train.history import History
from gpunet.train.metrics import F1, Accuracy, ConfusionMatrix, Metric, Precision, Recall, TopK
from gpunet.train.progress import ProgressBar
from gpunet.train.trainer import Trainer

__all__ = [
    "F1",
    "Accuracy",
    "BestCheckpoint",
    "CSVLogger",
    "Callback",
    "ConfusionMatrix",
    "EarlyStopping",
    "History",
    "LearningRateMonitor",
    "Metric",
    "Precision",
    "ProgressBar",
    "Recall",
    "SkipStep",
    "StopEpoch",
    "StopTraining",
    "TopK",
    "Trainer",
]
