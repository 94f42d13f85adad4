"""Majority: always the most frequent training label (the mean for numbers, each label by its majority for label sets)."""

from __future__ import annotations

import numpy as np

from tunesmith.baselines._base import Baseline, Guess, loss_of, targets
from tunesmith.config import RunConfig
from tunesmith.data.splits import Roles
from tunesmith.tasks._base import Task


class Majority(Baseline):
    """A constant prediction, with the label frequencies as probabilities."""

    def predict(self, task: Task, roles: Roles, config: RunConfig) -> Guess:
        """The same for every row."""
        labels, truth = targets(task, roles.train.table), targets(task, roles.eval.table)
        rows, problem = len(truth), task.problem  # type: ignore[attr-defined]
        if problem == "regression":
            numbers = np.full(rows, labels.mean())
            return Guess(numbers, loss_of(problem, numbers, None, truth), 1)
        if problem == "multi-label":
            share = labels.mean(0)
            chosen = np.tile((share >= task.options.threshold).astype(np.int64), (rows, 1))
            return Guess(chosen, loss_of(problem, chosen, np.tile(share, (rows, 1)), truth), len(share))
        counts = np.bincount(labels, minlength=len(task.state_dict()["labels"]))
        chosen = np.full(rows, counts.argmax())
        return Guess(chosen, loss_of(problem, chosen, np.tile(counts / counts.sum(), (rows, 1)), truth), len(counts))
