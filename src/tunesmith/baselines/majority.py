"""Majority: always the most frequent training label (the mean for numbers, each label by its majority for label sets)."""

from __future__ import annotations

import numpy as np

from tunesmith.baselines._base import Baseline, Guess, targets
from tunesmith.config import RunConfig
from tunesmith.data.splits import Roles
from tunesmith.tasks._base import Task


class Majority(Baseline):
    """A constant prediction, with the label frequencies as probabilities."""

    def predict(self, task: Task, roles: Roles, config: RunConfig) -> Guess:
        """The same for every row."""
        labels, rows = targets(task, roles.train.table), len(roles.eval)
        problem = task.problem  # type: ignore[attr-defined]
        if problem == "regression":
            return Guess(np.full(rows, labels.mean()), None, 1)
        if problem == "multi-label":
            share = labels.mean(0)
            return Guess(
                np.tile((share >= task.options.threshold).astype(np.int64), (rows, 1)),
                np.tile(share, (rows, 1)),
                len(share),
            )
        counts = np.bincount(labels, minlength=len(task.state_dict()["labels"]))
        return Guess(np.full(rows, counts.argmax()), np.tile(counts / counts.sum(), (rows, 1)), len(counts))
