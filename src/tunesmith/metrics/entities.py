"""Entities in tagged words, and how many of them were found: precision, recall and F1 as the CoNLL evaluation counts them.

    words   Angela  Merkel  visits  Paris      a tag a word: B-X begins an entity of type X, I-X continues it, O is outside
    tags    B-PER   I-PER   O       B-LOC      entities: (PER, 0, 2), (LOC, 3, 4)

An entity counts when its type and both ends are right, and over all rows together (micro average):

    precision = right / predicted      recall = right / true      f1 = 2 right / (predicted + true)

A predicted I-X that follows O or another type begins an entity, as in conlleval (Tjong Kim Sang & De Meulder 2003, section 3)
and in seqeval's default mode, whose numbers these are. Where nothing is predicted or nothing is true a ratio is 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tunesmith.metrics.counts import Array, Drawn, kept, share

Entity = tuple[str, int, int]
"""Type, first word, word after the last."""


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of BIO tags, in order; an `I-X` that continues nothing begins one."""
    found: list[Entity] = []
    kind, start = "", 0
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        inside = prefix in ("B", "I") and bool(name)
        if kind and not (prefix == "I" and name == kind):
            found.append((kind, start, place))
            kind = ""
        if inside and not kind:
            kind, start = name, place
    return found


class EntityMetric:
    """precision, recall, f1; f1_<TYPE> for every type that the rows have; accuracy over words."""

    def __init__(self) -> None:
        self.right: Counter[str] = Counter()
        self.predicted: Counter[str] = Counter()
        self.true: Counter[str] = Counter()
        self.words = self.right_words = 0

    def update(self, predicted: Sequence[str], true: Sequence[str]) -> None:
        """Add one row: two tags for each of its words."""
        self.right_words += sum(p == t for p, t in zip(predicted, true, strict=True))
        self.words += len(true)
        guessed, wanted = entities(predicted), entities(true)
        self.predicted.update(kind for kind, _, _ in guessed)
        self.true.update(kind for kind, _, _ in wanted)
        self.right.update(kind for kind, _, _ in set(guessed) & set(wanted))

    def compute(self) -> dict[str, float]:
        """The metrics over everything added; nothing without words."""
        if not self.words:
            return {}
        right, predicted, true = self.right.total(), self.predicted.total(), self.true.total()
        # Types that only the predictions have are left out of the list, so that every seed of a comparison has the same keys.
        each = {f"f1_{kind}": ratio(2 * self.right[kind], self.predicted[kind] + n) for kind, n in self.true.items()}
        return {
            "f1": ratio(2 * right, predicted + true),
            "precision": ratio(right, predicted),
            "recall": ratio(right, true),
            "accuracy": self.right_words / self.words,
            **dict(sorted(each.items())),
        }

    def counts(self, predicted: Sequence[str], true: Sequence[str]) -> dict[str, float]:
        """Words, and of each type the entities that were found, predicted and there."""
        guessed, wanted = entities(predicted), entities(true)
        found: Counter[str] = Counter(words=len(true))
        found["right_words"] = sum(p == t for p, t in zip(predicted, true, strict=True))
        for name, several in (("predicted", guessed), ("true", wanted), ("right", set(guessed) & set(wanted))):
            found.update(f"{name}:{kind}" for kind, _, _ in several)
        return kept(found.items())

    def from_counts(self, drawn: Drawn) -> dict[str, Array]:
        """The metrics from sums over rows."""
        kinds = sorted({*drawn.after("predicted:"), *drawn.after("true:")})
        right, guessed, true = (drawn.stacked(f"{name}:", kinds) for name in ("right", "predicted", "true"))
        each = share(2 * right, guessed + true)
        of_rows = drawn.after("true:")
        right, guessed, true = (part.sum(-1) for part in (right, guessed, true))
        return {
            "f1": share(2 * right, guessed + true),
            "precision": share(right, guessed),
            "recall": share(right, true),
            "accuracy": share(drawn["right_words"], drawn["words"]),
            **{f"f1_{kind}": each[:, place] for place, kind in enumerate(kinds) if kind in of_rows},
        }


class TagMetric:
    """accuracy over words, and f1_macro: the unweighted mean of the tags' F1 over tags in truth or prediction."""

    def __init__(self) -> None:
        self.right: Counter[str] = Counter()
        self.predicted: Counter[str] = Counter()
        self.true: Counter[str] = Counter()

    def update(self, predicted: Sequence[str], true: Sequence[str]) -> None:
        """Add one row: two tags for each of its words."""
        self.right.update(p for p, t in zip(predicted, true, strict=True) if p == t)
        self.predicted.update(predicted)
        self.true.update(true)

    def compute(self) -> dict[str, float]:
        """The metrics over everything added; nothing without words."""
        if not self.true:
            return {}
        seen = sorted(self.predicted | self.true)
        each = [ratio(2 * self.right[tag], self.predicted[tag] + self.true[tag]) for tag in seen]
        return {"accuracy": self.right.total() / self.true.total(), "f1_macro": sum(each) / len(each)}

    def counts(self, predicted: Sequence[str], true: Sequence[str]) -> dict[str, float]:
        """Of each tag the words that were right, predicted and there."""
        found: Counter[str] = Counter(f"right:{t}" for p, t in zip(predicted, true, strict=True) if p == t)
        found.update(f"predicted:{tag}" for tag in predicted)
        found.update(f"true:{tag}" for tag in true)
        return dict(found)

    def from_counts(self, drawn: Drawn) -> dict[str, Array]:
        """The metrics from sums over rows."""
        tags = sorted({*drawn.after("predicted:"), *drawn.after("true:")})
        right, guessed, true = (drawn.stacked(f"{name}:", tags) for name in ("right", "predicted", "true"))
        seen = (guessed + true) > 0
        each = share(2 * right, guessed + true)
        return {
            "accuracy": share(right.sum(-1), true.sum(-1)),
            "f1_macro": share((each * seen).sum(-1), seen.sum(-1)),
        }


def ratio(part: int, whole: int) -> float:
    """The share of a part, 0 where there is nothing."""
    return part / whole if whole else 0.0
