"""Kneser-Ney against the formulas written out, against the equations of a public implementation, and as a baseline of a run."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith.baselines._kneser_ney import FALLBACK, KneserNey
from tunesmith.errors import TechniqueError
from tunesmith.testing import tiny_model

START = -1


class Plain:
    """Interpolated modified Kneser-Ney from its definition, with dictionaries; p(w | h) by recursion."""

    def __init__(self, documents: list[list[int]], order: int, vocabulary: int, discount: float | None) -> None:
        self.order, self.vocabulary = order, vocabulary
        raw: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(order + 1)]
        for document in documents:
            tokens = [START, *document]
            for n in range(1, order + 1):
                raw[n].update(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
        self.count: list[dict[tuple[int, ...], int]] = [{}]
        for n in range(1, order + 1):
            before: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
            for gram in raw[n + 1] if n < order else ():
                before[gram[1:]].add(gram[0])
            counts = {g: c if n == order or g[0] == START else len(before[g]) for g, c in raw[n].items()}
            counts.pop((START,), None)
            self.count.append(counts)
        self.discounts = [[0.0] * 4] + [self._discounts(c, discount) for c in self.count[1:]]

    @staticmethod
    def _discounts(counts: dict[tuple[int, ...], int], fixed: float | None) -> list[float]:
        if fixed is not None:
            return [0.0, fixed, fixed, fixed]
        t = Counter(counts.values())
        if not all(t[k] for k in (1, 2, 3, 4)):
            return [0.0, *FALLBACK]
        y = t[1] / (t[1] + 2 * t[2])
        found = [k - (k + 1) * y * t[k + 1] / t[k] for k in (1, 2, 3)]
        return [0.0, *(found if all(0 <= d <= k for k, d in enumerate(found, 1)) else FALLBACK)]

    def p(self, token: int, history: tuple[int, ...]) -> float:
        history = history[-(self.order - 1) :] if self.order > 1 else ()
        n = len(history) + 1
        lower = self.p(token, history[1:]) if n > 1 else 1 / self.vocabulary
        after = {g: c for g, c in self.count[n].items() if g[:-1] == history}
        total = sum(after.values())
        if total == 0:
            return lower
        d = self.discounts[n]
        own = after.get((*history, token), 0)
        kept = sum(d[min(c, 3)] for c in after.values())
        return (own - d[min(own, 3)]) / total + kept / total * lower


def corpus(seed: int = 0, vocabulary: int = 7) -> list[list[int]]:
    """Documents with enough repetition that every count of counts is there."""
    rng = np.random.default_rng(seed)
    shares = np.geomspace(1, 0.05, vocabulary)
    return [rng.choice(vocabulary, p=shares / shares.sum(), size=rng.integers(1, 30)).tolist() for _ in range(25)]


@pytest.mark.parametrize("discount", [None, 0.4])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_equals_the_formulas(order: int, discount: float | None) -> None:
    documents, others = corpus(), corpus(1)[:6]
    fast, plain = KneserNey(order, 9, discount).fit(documents), Plain(documents, order, 9, discount)
    for document in (*documents[:3], *others, [8, 0, 8, 8, 1]):  # 8 was never seen
        expected = [plain.p(token, (START, *document[:i])) for i, token in enumerate(document)]
        assert np.allclose(fast.score(document)[0], expected, rtol=1e-12)


def test_discounts_are_those_of_the_paper() -> None:
    """Chen and Goodman, equation 26, on counts of counts 8, 4, 2, 1: Y = 1/2, D = 1 - 1/2, 2 - 3/4, 3 - 1."""
    found = KneserNey(1, 50)._discounts(1, np.repeat([1, 2, 3, 4], [8, 4, 2, 1]))
    assert np.allclose(found, [0, 0.5, 1.25, 2.0])
    assert np.allclose(KneserNey(1, 50)._discounts(1, np.asarray([1, 1, 2])), [0, *FALLBACK])


@pytest.mark.parametrize("order", [1, 2, 4])
def test_sums_to_one_and_knows_its_best(order: int) -> None:
    model = KneserNey(order, 9).fit(corpus())
    for history in ([], [0], [3, 1], [8], [2, 2, 0, 1], corpus()[4]):
        found = [model.score([*history, token]) for token in range(9)]
        probabilities = np.asarray([p[-1] for p, _ in found])
        assert math.isclose(probabilities.sum(), 1.0, rel_tol=1e-12)
        assert probabilities[found[0][1][-1]] == probabilities.max()


def test_equals_nltk_on_bigrams() -> None:
    """NLTK has one discount, no uniform floor under the unigrams, and pads with as many starts as the order needs; with order 2,
    a unigram discount of 0 and a vocabulary of seen tokens the definitions are the same.
    """
    lm = pytest.importorskip("nltk.lm")
    documents = corpus()
    theirs = lm.KneserNeyInterpolated(2, discount=0.3)
    words = [["<s>", *map(str, d)] for d in documents]
    grams = [[*((w,) for w in d), *pairwise(d)] for d in words]
    theirs.fit(grams, [w for d in words for w in d])
    ours = KneserNey(2, 7, 0.3)
    real = ours._discounts
    ours._discounts = lambda n, a: np.zeros(4) if n == 1 else real(n, a)  # type: ignore[method-assign]
    ours.fit(documents)
    for document in documents[:4]:
        expected = [
            theirs.score(str(w), [str(h) if h != START else "<s>"])
            for h, w in zip([START, *document], document, strict=False)
        ]
        assert np.allclose(ours.score(document)[0], expected)


def test_millions_of_tokens_are_counted_without_a_loop_over_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of sorts depends on the order alone."""
    calls = []
    real = np.unique
    monkeypatch.setattr(np, "unique", lambda *a, **k: calls.append(1) or real(*a, **k))
    tokens = np.random.default_rng(0).zipf(1.4, 40_000) % 500
    KneserNey(4, 500).fit([tokens[i : i + 400] for i in range(0, len(tokens), 400)])
    assert len(calls) == 3


TEXTS = [
    "the film was good and the plot was fine",
    "the book was dull and slow",
    "a plot of the film",
    "good good good",
]


def guessed(model: str, out: Path, order: int = 5) -> tuple[Any, dict[str, float]]:
    """The baseline's answer, and the task's metrics of it."""
    from tunesmith import config as configuration
    from tunesmith import registry
    from tunesmith.baselines.ngram import NGram, Options
    from tunesmith.data.sources import write_objects
    from tunesmith.data.splits import load_roles

    rows = [{"text": text} for text in TEXTS * 3]
    files = [str(write_objects(r, out / f"{name}.jsonl")) for name, r in (("train", rows), ("eval", rows[:3]))]
    settings = {"model": model, "task": "language-modeling", "train": files[0], "eval": files[1], "output": str(out)}
    config = configuration.build(configuration.RunConfig, settings)
    task = registry.load("task", config.task)(configuration.options_of(config, "task", config.task))
    roles = load_roles(config, task)
    guess = NGram(Options(order=order)).predict(task, roles, config)
    metric = task.metric()
    for value, row in zip(guess.values, roles.eval.table, strict=True):
        metric.update(value, task.truth(row))
    return guess, metric.compute()


def test_counts_what_the_task_counts(tmp_path: Path) -> None:
    """Every token of a document and its end token, against the bytes of the text."""
    from transformers import AutoTokenizer

    guess, metrics = guessed("new:gru", tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base_model")
    tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 for text in TEXTS[:3])
    size = sum(len(text.encode()) for text in TEXTS[:3])
    assert sum(value.tokens for value in guess.values) == tokens
    assert metrics["bits_per_byte"] == pytest.approx(guess.loss * tokens / size / math.log(2))
    assert metrics["perplexity"] == pytest.approx(math.exp(guess.loss))
    assert metrics["token_accuracy"] > 0.8  # it has seen these very texts
    unigrams, _ = guessed("new:gru", tmp_path, order=1)
    assert unigrams.loss > guess.loss and unigrams.parameters < guess.parameters


def test_a_tokenizer_with_unknown_tokens_counts_them(models: Path, tmp_path: Path) -> None:
    """A causal model over words: the unknown token is a token like any other, for both."""
    guess, _ = guessed(str(tiny_model("llama", models / "llama")), tmp_path)
    assert all(0 < value.nats / value.tokens < 3 for value in guess.values)


def test_masked_models_are_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(TechniqueError, match="fills in masked"):
        guessed(str(tiny_model("bert", models / "bert")), tmp_path)
