"""Majority: always the most frequent training label (the mean for numbers, each label by its majority for label sets).

For tags it is the most frequent tag of each word, and the most frequent of all for words that training did not have: what can
be had by looking words up, without reading a sentence.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import Any, ClassVar

import numpy as np

from tunesmith.baselines._base import Baseline, Guess, loss_of, targets
from tunesmith.config import RunConfig
from tunesmith.data.splits import Roles
from tunesmith.tasks._base import Task


class Majority(Baseline):
    """A constant prediction (for each word, with tags), with the label frequencies as probabilities."""

    tasks: ClassVar[tuple[str, ...]] = ("text-classification", "token-classification")

    def predict(self, task: Task, roles: Roles, config: RunConfig) -> Guess:
        """The same for every row, or for every occurrence of a word."""
        if task.name == "token-classification":
            return tag_words(task, roles)
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


def tag_words(task: Any, roles: Roles) -> Guess:
    """Each word's most frequent tag in training; the most frequent of all for other words.

    Probabilities are p(tag | word) = (n(word, tag) + p(tag)) / (n(word) + 1) with p(tag) = (n(tag) + 1) / (N + tags): one
    observation's worth of the overall shares, which is all there is for a word that training did not have.
    """
    started = time.perf_counter()
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for row in roles.train.table:
        for word, tag in zip(task.words(row), task.truth(row), strict=True):
            seen[word][tag] += 1
            overall[tag] += 1
    labels = task.state_dict()["labels"]
    share = {tag: (overall[tag] + 1) / (overall.total() + len(labels)) for tag in labels}
    usual = overall.most_common(1)[0][0]
    best = {word: max(counts, key=lambda tag: (counts[tag], overall[tag])) for word, counts in seen.items()}
    seconds = time.perf_counter() - started
    values, nats, units = [], 0.0, 0
    for row in roles.eval.table:
        words, truth = task.words(row), task.truth(row)
        values.append([best.get(word, usual) for word in words])
        for word, tag in zip(words, truth, strict=True):
            counts = seen.get(word, Counter())
            nats -= float(np.log((counts[tag] + share[tag]) / (counts.total() + 1)))
            units += 1
    return Guess(values, nats / max(units, 1), sum(len(counts) for counts in seen.values()) + len(share), seconds)
