"""Training: the `Trainer` (also ``from gpunet import Trainer``), its callbacks and its metrics."""

from gpunet.train.callbacks import BestCheckpoint, CSVLogger, EarlyStopping, LearningRateMonitor, ProgressBar
from gpunet.train.history import History
from gpunet.train.hooks import Callback, SkipStep, StopEpoch, StopTraining
from gpunet.train.metrics import F1, Accuracy, ConfusionMatrix, Metric, Precision, Recall, TopK
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
