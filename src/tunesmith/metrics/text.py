"""Overlap of a written text with the text that was wanted: ROUGE-1/2/L, chrF, exact match.

ROUGE (Lin 2004) counts words, which here are runs of letters and digits of any script, so that it means the same in
Vietnamese as in English; on English text it equals the rouge-score package without stemming. chrF (Popovic 2015) counts
characters and needs no words at all. The arithmetic is torchmetrics' and sacrebleu's.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

WORD = re.compile(r"[^\W_]+")
KEYS = ("rouge1", "rouge2", "rougeL")


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
