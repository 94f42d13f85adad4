"""The loss of one answer for every row, which a model reaches before it has learned anything of the rows.

With p the shares of the labels in training, every row (every word, of tags) is answered with p:

    L = -1/N sum_i log p(y_i)        cross-entropy; for numbers the squared error of their mean

A model comes down to L within a few steps, from the shares of the labels alone, and may stay there for a hundred more. Losses of runs that end on
it differ by chance, so they say nothing of a learning rate.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

from tunesmith import registry
from tunesmith.config import RunConfig
from tunesmith.data.splits import Roles


def plateau(task: Any, roles: Roles, config: RunConfig) -> float | None:
    """L in nats, on the validation rows.

    Args:
        task: of the rows, not fitted yet.
        roles: with validation rows.
        config: of the run.

    Returns:
        None for tasks whose model says more than a label from the start (answers in a text, texts), and where classes are weighted: the model's
        loss is weighted then, and this is not.
    """
    if task.name not in ("text-classification", "token-classification"):
        return None
    assert roles.validation is not None
    task.fit(roles.train)
    if task.name == "token-classification":
        seen = Counter(tag for row in roles.train.table for tag in task.truth(row))
        labels = task.state_dict()["labels"]
        nats = [
            -math.log((seen[tag] + 1) / (seen.total() + len(labels)))
            for row in roles.validation.table
            for tag in task.truth(row)
        ]
        return math.fsum(nats) / max(len(nats), 1)
    if task.weights is not None:
        return None
    majority = registry.load("baseline", "majority")
    return float(majority(majority.Options()).predict(task, replace(roles, eval=roles.validation), config).loss)
