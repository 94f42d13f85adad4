"""The contract of a baseline: training rows in, a prediction for every eval row out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tunesmith.config import Options, RunConfig
from tunesmith.data.splits import Roles
from tunesmith.tasks._base import Task


@dataclass
class Guess:
    """What a baseline predicts.

    Attributes:
        values: one per eval row, as the task's metric takes them (label index, 0/1 vector, number).
        loss: mean over supervised units of the eval rows.
        parameters: how many numbers it learned.
        seconds: time to learn them.
    """

    values: Sequence[Any] | np.ndarray[Any, Any]
    loss: float
    parameters: int = 0
    seconds: float = 0.0


class Baseline(ABC):
    """A simple predictor without fine-tuning, for the tasks that it names."""

    family: ClassVar[str] = "baseline"
    Options: ClassVar[type[Options]] = Options
    tasks: ClassVar[tuple[str, ...]] = ("text-classification",)
    reads_model: ClassVar[bool] = False
    """Whether it looks inside the model, so that every compared model has a row of it."""

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def predict(self, task: Task, roles: Roles, config: RunConfig) -> Guess:
        """Learn from the training rows, predict the eval rows."""


def targets(task: Any, table: Any) -> np.ndarray[Any, Any]:
    """Labels of a table as the task encodes them: [rows] indices or numbers, [rows, labels] 0/1."""
    return np.stack([task.target(value) for value in table["label"]])


def texts(table: Any) -> list[str]:
    """The text of each row, pairs joined."""
    if "text_pair" in table.column_names:
        return [f"{a} {b or ''}" for a, b in zip(table["text"], table["text_pair"], strict=True)]
    return [str(text) for text in table["text"]]


def fit_linear(task: Any, roles: Roles, features: Any, others: Any, strength: float, seed: int) -> Guess:
    """A linear model on fixed features: logistic regression, one per label, or ridge regression.

    Args:
        task: says which kind of problem it is, and the threshold of several labels.
        roles: for the labels.
        features: training rows, [rows, width], dense or sparse.
        others: eval rows, [rows, width].
        strength: inverse of the L2 penalty (scikit-learn's C).
        seed: for the solver.
    """
    import time

    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier

    labels, truth = targets(task, roles.train.table), targets(task, roles.eval.table)
    started, problem = time.perf_counter(), task.problem
    if problem == "regression":
        ridge = Ridge(alpha=1.0 / strength).fit(features, labels)
        numbers = ridge.predict(others)
        loss = loss_of(problem, numbers, None, truth)
        return Guess(numbers, loss, ridge.coef_.size + 1, time.perf_counter() - started)
    if problem == "multi-label":
        many = OneVsRestClassifier(LogisticRegression(C=strength, max_iter=1000, random_state=seed)).fit(
            features, labels
        )
        probability = many.predict_proba(others)
        size = sum(e.coef_.size + 1 for e in many.estimators_ if hasattr(e, "coef_"))
        chosen = (probability >= task.options.threshold).astype(np.int64)
        return Guess(chosen, loss_of(problem, chosen, probability, truth), size, time.perf_counter() - started)
    one = LogisticRegression(C=strength, max_iter=1000, random_state=seed).fit(features, labels)
    probability = one.predict_proba(others)
    chosen, size = probability.argmax(1), one.coef_.size + one.intercept_.size
    return Guess(chosen, loss_of(problem, chosen, probability, truth), size, time.perf_counter() - started)


def loss_of(problem: str, values: Any, probabilities: Any, truth: np.ndarray[Any, Any]) -> float:
    """The classification loss on a baseline's predictions: cross-entropy with probabilities kept above 1e-7, or squared error."""
    if problem == "regression":
        return float(np.mean((values - truth) ** 2))
    sure = np.clip(probabilities, 1e-7, 1 - 1e-7)
    if problem == "multi-label":
        return float(-np.mean(truth * np.log(sure) + (1 - truth) * np.log(1 - sure)))
    return float(-np.mean(np.log(sure[np.arange(len(truth)), truth])))
