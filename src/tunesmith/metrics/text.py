"""Overlap of a written text with the text that was wanted: ROUGE-1/2/L, chrF, exact match.

ROUGE (Lin 2004) counts words, which here are runs of letters and digits of any script, so that it means the same in
Vietnamese as in English; on English text it equals the rouge-score package without stemming. chrF (Popovic 2015) counts
characters and needs no words at all. The arithmetic is torchmetrics' and sacrebleu's.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tunesmith.metrics.counts import Array, Drawn, kept, share

WORD = re.compile(r"[^\W_]+")
KEYS = ("rouge1", "rouge2", "rougeL")
ORDERS, BETA = 6, 2  # chrF2: characters, as sacrebleu counts them by default


def words(text: str) -> Sequence[str]:
    """Lower-case words of a text in composed Unicode form."""
    return WORD.findall(unicodedata.normalize("NFC", text).lower())


class TextOverlap:
    """rouge1, rouge2, rougeL (F1, mean over rows, 0..1), exact_match (0..1), chrf (of the corpus, 0..100 as sacrebleu gives it)."""

    def __init__(self) -> None:
        self.predicted: list[str] = []
        self.true: list[str] = []

    def update(self, predicted: str, true: str) -> None:
        """Add one row."""
        self.predicted.append(unicodedata.normalize("NFC", predicted))
        self.true.append(unicodedata.normalize("NFC", true))

    def compute(self) -> dict[str, float]:
        """The metrics over everything added; nothing without rows."""
        if not self.true:
            return {}
        from sacrebleu.metrics import CHRF
        from torchmetrics.functional.text import rouge_score

        found = rouge_score(
            self.predicted, self.true, rouge_keys=KEYS, normalizer=lambda text: text, tokenizer=words, accumulate="best"
        )
        exact = sum(p.strip() == t.strip() for p, t in zip(self.predicted, self.true, strict=True))
        return {
            **{key: float(found[f"{key}_fmeasure"]) for key in KEYS},
            "chrf": CHRF().corpus_score(self.predicted, [self.true]).score,
            "exact_match": exact / len(self.true),
        }

    def counts(self, predicted: str, true: str) -> dict[str, float]:
        """ROUGE of the row, whether the text is exact, and chrF's n-grams: predicted, true and common ones of each length."""
        one, other = (unicodedata.normalize("NFC", text) for text in (predicted, true))
        found: dict[str, float] = {"texts": 1, "exact": float(one.strip() == other.strip()), **rouge(one, other)}
        for n in range(1, ORDERS + 1):
            mine, theirs = (_ngrams("".join(text.split()), n) for text in (one, other))
            found |= {
                f"chrf_predicted:{n}": mine.total() if theirs else 0,
                f"chrf_true:{n}": theirs.total(),
                f"chrf_right:{n}": (mine & theirs).total(),
            }
        return kept(found.items())

    def from_counts(self, drawn: Drawn) -> dict[str, Array]:
        """The metrics from sums over rows; nothing where no text was written."""
        if "texts" not in drawn:
            return {}
        texts, orders = drawn["texts"], [str(n) for n in range(1, ORDERS + 1)]
        right, guessed, true = (drawn.stacked(f"chrf_{name}:", orders) for name in ("right", "predicted", "true"))
        used = (guessed > 0) & (true > 0)
        precision, recall = (share((share(right, side) * used).sum(-1), used.sum(-1)) for side in (guessed, true))
        return {
            **{key: share(drawn[key], texts) for key in KEYS},
            "chrf": 100 * share((1 + BETA**2) * precision * recall, BETA**2 * precision + recall),
            "exact_match": share(drawn["exact"], texts),
        }


def rouge(predicted: str, true: str) -> dict[str, float]:
    """ROUGE-1, -2 and -L of one row: F1 of common words, of common pairs, and of the longest common subsequence."""
    one, other = words(predicted), words(true)
    found = {}
    for key, n in (("rouge1", 1), ("rouge2", 2)):
        mine, theirs = _ngrams(one, n), _ngrams(other, n)
        both = mine.total() + theirs.total()
        found[key] = 2 * (mine & theirs).total() / both if both else 0.0
    both = len(one) + len(other)
    return {**found, "rougeL": 2 * _longest_common(one, other) / both if both else 0.0}


def _ngrams(sequence: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(sequence[i : i + n]) for i in range(len(sequence) - n + 1))


def _longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    index = {word: number for number, word in enumerate(dict.fromkeys([*one, *other]))}
    target = np.asarray([index[word] for word in other], np.int64)
    lengths = np.zeros(len(other) + 1, np.int64)
    for word in one:
        taken = np.where(target == index[word], lengths[:-1] + 1, lengths[1:])
        lengths[1:] = np.maximum.accumulate(taken)
    return int(lengths[-1])
