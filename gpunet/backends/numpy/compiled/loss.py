"""Softmax cross entropy in compiled loops: loss.cpp."""

from __future__ import annotations

import numpy as np

from gpunet.backends.contract import UNWEIGHTED, Array, CrossEntropy, LossParts
from gpunet.backends.host.arrays import QUIET
from gpunet.backends.numpy.compiled.loops import CompiledLoops
from gpunet.backends.numpy.loss import NumpyLoss

WORK = 16
"""Elements of work that a logit stands for."""


class CompiledLoss(CompiledLoops, NumpyLoss):
    """The losses that need a softmax."""

    @QUIET
    def softmax_cross_entropy(self, logits: Array, labels: Array, options: CrossEntropy = UNWEIGHTED) -> LossParts:
        takes = logits.size and labels.dtype == np.int32 and labels.flags.c_contiguous
        loops = self._loops("loss", logits, options.weight) if takes else None
        if loops is None:
            return super().softmax_cross_entropy(logits, labels, options)
        share = 1.0
        if options.reduction == "mean":
            total = float(self.label_weight(labels, logits.shape[1], options))
            share = 0.0 if total <= 0 else 1 / total  # without any weight there is no loss
        gain = 1.0 if options.reduction == "none" else share * options.gain
        (rows, classes), ignored = logits.shape, options.ignore_index
        losses, dlogits, hits = np.empty(rows), np.empty_like(logits), np.empty(rows, np.uint8)
        given = float(options.smoothing), int(ignored is not None), ignored or 0, int(options.normalized), gain
        self._spread(
            loops, "cross_entropy", rows, WORK * classes, logits, labels, classes, options.weight, *given, losses, dlogits,
            hits,
        )  # fmt: skip
        correct = np.asarray(np.count_nonzero(hits), np.int32)
        if options.reduction == "none":
            return losses.astype(logits.dtype), dlogits, correct
        return np.asarray(losses.sum() * share, logits.dtype), dlogits, correct
