r"""Which task a row belongs to, when nobody says: a unigram language model for each task, over the model's own tokens.

    p_t(w) = (c_t(w) + MU p(w)) / (n_t + MU)        p(w) = (1 + sum_t c_t(w)) / (V + sum_t n_t)
    task   = argmax_t  sum_w log p_t(w)             w over the tokens of the row's inputs

c_t(w) counts token w in the training rows of task t, n_t is their sum, V the vocabulary: Dirichlet smoothing of Zhai & Lafferty (2004,
section 3), as a model of where rows come from. It needs no forward pass and none of the learned weights, so that it does not
forget; what it cannot do is to tell tasks apart whose rows are the same texts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

MU = 1000.0
"""Tokens that the pooled distribution counts as."""
FILE = "tasks.safetensors"
BLOCK = 1000  # texts tokenised together


class TaskInference:
    """Token counts by task.

    Attributes:
        counts: token id to count, for each task.
        size: of the vocabulary.
    """

    def __init__(self, counts: Mapping[str, Mapping[int, int]], size: int) -> None:
        self.counts = {name: Counter({int(k): int(v) for k, v in found.items()}) for name, found in counts.items()}
        self.size = size
        self._totals = {name: sum(found.values()) for name, found in self.counts.items()}
        self._all: Counter[int] = Counter()
        for found in self.counts.values():
            self._all.update(found)
        self._sum = sum(self._totals.values())

    @classmethod
    def of(
        cls, texts: Mapping[str, Iterable[str]], tokenizer: Any, known: TaskInference | None = None
    ) -> TaskInference:
        """From the texts of each task's training rows.

        Args:
            texts: by task; what `known` has counted is not read.
            tokenizer: the model's.
            known: counts of earlier stages.
        """
        counts: dict[str, Counter[int]] = {}
        for name, several in texts.items():
            if known is not None and name in known.counts and known.size == len(tokenizer):
                counts[name] = known.counts[name]
                continue
            counts[name] = Counter()
            listed = list(several)
            for start in range(0, len(listed), BLOCK):
                for ids in _tokens(listed[start : start + BLOCK], tokenizer):
                    counts[name].update(ids)
        return cls(counts, len(tokenizer))

    def scores(self, name: str, texts: Sequence[str], tokenizer: Any) -> list[float]:
        """Log-likelihood of each text under a task, in nats."""
        found, total = self.counts[name], self._totals[name]

        def log(token: int) -> float:
            shared = (1 + self._all[token]) / (self.size + self._sum)
            return float(np.log((found[token] + MU * shared) / (total + MU)))

        known: dict[int, float] = {}
        result = []
        for ids in _tokens(texts, tokenizer):
            for token in ids:
                if token not in known:
                    known[token] = log(token)
            result.append(sum(known[token] for token in ids))
        return result

    def infer(self, texts: Mapping[str, Sequence[str]], tokenizer: Any) -> list[str]:
        """The likeliest task of each row.

        Args:
            texts: the rows' inputs as each task that can read them sees them.
            tokenizer: the model's.
        """
        names = list(texts)
        table = np.asarray([self.scores(name, texts[name], tokenizer) for name in names])
        return [names[int(i)] for i in table.argmax(0)]

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the counts; returns what `load` must know beside them."""
        tensors = {}
        for i, found in enumerate(self.counts.values()):
            pairs = sorted(found.items())
            tensors[f"{i}"] = np.asarray(pairs, np.int64).reshape(-1, 2)
        save_file(tensors, str(folder / FILE))
        return {"names": list(self.counts), "vocabulary": self.size}

    @classmethod
    def load(cls, folder: Path, info: Mapping[str, Any]) -> TaskInference:
        """Read them."""
        tensors = load_file(str(folder / FILE))
        counts = {name: dict(tensors[str(i)].tolist()) for i, name in enumerate(info["names"])}
        return cls(counts, int(info["vocabulary"]))


def text_of(row: Mapping[str, Any], task: Any) -> str | None:
    """All that a task reads of a row as one text; None where a column that it needs is missing."""
    parts: list[str] = []
    for name in task.inputs:
        value = row.get(name)
        if value is None:
            value = row.get(task.stand_ins.get(name, ""))
        if value is None and name in task.required:
            return None
        if name in task.structured and isinstance(value, str):  # tables keep lists and objects as JSON text
            with suppress(ValueError):
                value = json.loads(value)
        parts += _strings(value)
    return " ".join(parts)


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for each in value.values() for text in _strings(each)]
    return [text for each in value for text in _strings(each)] if isinstance(value, (list, tuple)) else []


def _tokens(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    if not texts:
        return []
    return [list(ids) for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]
