r"""Exact match and F1 of answer texts, as the official SQuAD scripts define them.

A text is compared after lower-casing, dropping ASCII punctuation, dropping the words a, an and the, and joining what is left
with single spaces. With tokens P of the prediction and G of one accepted answer (multisets)

    exact_match = [P = G]      f1 = 2 |P n G| / (|P| + |G|)

each the best over the accepted answers of a row and the mean over rows, as a fraction 0..1. A row without an answer is right
when the prediction is empty (Rajpurkar et al. 2016, section 6.1; Rajpurkar et al. 2018, section 5, `evaluate-v2.0.py`).

The two scripts differ in one corner, texts of which nothing is left ("the", "."): version 1.1 gives two of them an F1 of 0,
version 2.0 drops such answers and takes two empty texts as equal. Rows with an unanswerable one among them are scored by 2.0.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from tunesmith.metrics.counts import Array, Drawn, kept, share

ARTICLES = re.compile(r"\b(a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """The form in which answers are compared."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split())


def overlap(predicted: str, true: str) -> float:
    """F1 of two normalised texts by their tokens; two empty ones are equal."""
    one, other = predicted.split(), true.split()
    if not one or not other:
        return float(one == other)
    common = sum((Counter(one) & Counter(other)).values())
    return 2 * common / (len(one) + len(other))


def scores(predicted: str, accepted: Sequence[str], version: int = 2) -> tuple[float, float]:
    """(exact match, F1) of one row, the best over its accepted answers.

    Args:
        predicted: text, "" for no answer.
        accepted: texts, none where the question cannot be answered.
        version: 1 or 2 of the official script.
    """
    text, true = normalise(predicted), [normalise(answer) for answer in accepted]
    if version == 2:
        true = [answer for answer in true if answer] or [""]
    exact = float(text in true)
    if version == 1 and not text:
        return exact, 0.0
    return exact, max((overlap(text, answer) for answer in true), default=0.0)


class Squad:
    """exact_match and f1; with unanswerable rows also those of the answerable ones, and how many of the others are right."""

    def __init__(self) -> None:
        self.rows: list[tuple[bool, tuple[float, float], tuple[float, float]]] = []

    def update(self, predicted: str, true: Sequence[str]) -> None:
        """Add one row: a text, and the accepted ones."""
        self.rows.append((bool(true), scores(predicted, true, 1), scores(predicted, true, 2)))

    def compute(self) -> dict[str, float]:
        """The metrics over everything added; nothing without rows."""
        if not self.rows:
            return {}
        second = not all(answerable for answerable, _, _ in self.rows)
        every = [two if second else one for _, one, two in self.rows]
        found = {"exact_match": _mean([e for e, _ in every]), "f1": _mean([f for _, f in every])}
        if second:
            answered = [two for answerable, _, two in self.rows if answerable]
            if answered:
                found["exact_match_answerable"] = _mean([e for e, _ in answered])
                found["f1_answerable"] = _mean([f for _, f in answered])
            found["exact_match_unanswerable"] = _mean([two[0] for answerable, _, two in self.rows if not answerable])
        return found

    def counts(self, predicted: str, true: Sequence[str]) -> dict[str, float]:
        """Both scores by both versions of the script, and whether the row has an answer."""
        (exact, f1), (exact2, f2) = scores(predicted, true, 1), scores(predicted, true, 2)
        found = {"rows": 1, "exact": exact, "f1": f1, "exact2": exact2, "f2": f2, "unanswerable": not true}
        return kept((name, float(value)) for name, value in found.items())

    def from_counts(self, drawn: Drawn) -> dict[str, Array]:
        """The metrics from sums over rows; all rows together decide the script's version, whichever are taken."""
        rows = drawn["rows"]
        if "unanswerable" not in drawn:
            return {"exact_match": share(drawn["exact"], rows), "f1": share(drawn["f1"], rows)}
        none = drawn["unanswerable"]
        alone = {name: values * drawn.columns["unanswerable"] for name, values in drawn.columns.items()}
        without = Drawn(alone, drawn.weights)
        found = {"exact_match": share(drawn["exact2"], rows), "f1": share(drawn["f2"], rows)}
        if not bool(drawn.columns["unanswerable"].all()):
            found["exact_match_answerable"] = share(drawn["exact2"] - without["exact2"], rows - none)
            found["f1_answerable"] = share(drawn["f2"] - without["f2"], rows - none)
        return {**found, "exact_match_unanswerable": share(without["exact2"], none)}


def best_threshold(margins: Sequence[float], answered: Sequence[float], empty: Sequence[float]) -> float:
    """The margin above which answering nothing scores best over all rows.

    Args:
        margins: how much more each row looks unanswerable than answered.
        answered: its score when it is answered.
        empty: its score when it is not.

    Returns:
        A value between two margins, or beyond all of them; of several equally good ones that nearest to 0.
    """
    order = sorted(range(len(margins)), key=lambda i: margins[i])
    ranked = [margins[i] for i in order]
    # With the cut before place k, the first k rows are answered.
    totals = [sum(empty)]
    for i in order:
        totals.append(totals[-1] + answered[i] - empty[i])
    cuts = [(a + b) / 2 for a, b in pairwise(ranked)]
    cuts = [ranked[0] - 1, *cuts, ranked[-1] + 1] if ranked else [0.0]
    allowed = [0, *(k for k in range(1, len(ranked)) if ranked[k] > ranked[k - 1]), len(ranked)]
    highest = max(totals[k] for k in allowed)
    return min((cuts[k] for k in allowed if totals[k] >= highest - 1e-9), key=abs)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
