"""What was measured of techniques elsewhere, and what that says of a case that nobody has measured.

Each measured case is a comparison of all techniques on real rows, every one at the rate that the same search gave it, with three seeds. The expected
loss of a technique in a new case is its mean over measured cases, each weighted by how near it is:

    d = |log10 n - log10 n'| + |log10 parameters - log10 parameters'| + [other task] + [other architecture]
    n = rows / labels                                of a classifier, else rows
    w = exp(-2 d)                                    a kernel regression (Nadaraya 1964, Watson 1964) with the bandwidth 1/2
    expected = sum w behind / sum w                  behind: points that the technique was below the best one of that case

Nothing is fitted: the distance and its bandwidth were written down before the cases were measured, but for the labels, which came in on seeing the first case
with more than two (docs/decisions/0010). `leave_one_out` says how far that carries: each case is advised on from the others alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "evidence.json"
TIE = 0.5  # points: less than seeds and rows of small comparisons tell apart


@dataclass(frozen=True)
class Case:
    """What is known of a case before anything is trained.

    Attributes:
        task: registry name.
        architecture: encoder, decoder, encoder-decoder or recurrent.
        parameters: of the whole model.
        rows: to train on.
        num_labels: of a classifier, one of which a row has; 1 for other tasks.
    """

    task: str
    architecture: str
    parameters: int
    rows: int
    num_labels: int = 1

    @property
    def rows_a_label(self) -> float:
        """What a label is learned from."""
        return max(self.rows, 1) / self.num_labels

    def distance(self, other: Case) -> float:
        """0 for the same; 1 for each power of ten, another task, another architecture."""
        apart = abs(math.log10(self.rows_a_label) - math.log10(other.rows_a_label))
        apart += abs(math.log10(max(self.parameters, 1)) - math.log10(max(other.parameters, 1)))
        return apart + (self.task != other.task) + (self.architecture != other.architecture)


@dataclass(frozen=True)
class Outcome:
    """What one technique came to in a measured case.

    Attributes:
        behind: points below the best technique there (for a metric without a bound: percent of the best); 0 of the best.
        tie: whether rows and seeds cannot tell it from the best.
        factor: the rate that was searched, in units of the technique's default.
        seconds: of training.
    """

    behind: float
    tie: bool
    factor: float
    seconds: float


@dataclass(frozen=True)
class Measured:
    """One comparison that was carried out.

    Attributes:
        name: what it is called in the results.
        case: what was known before.
        outcomes: by technique.
    """

    name: str
    case: Case
    outcomes: Mapping[str, Outcome]


@dataclass(frozen=True)
class Expected:
    """What measured cases say of a technique in another one.

    Attributes:
        behind: points below the best that are expected.
        factor: the rate, in units of the technique's default: the weighted geometric mean of those that were searched.
        nearest: names of the cases that weigh most, at most three.
        cases: how many have it.
    """

    behind: float
    factor: float
    nearest: tuple[str, ...]
    cases: int


@cache
def content() -> dict[str, Any]:
    """The file of the package."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def measured(found: Mapping[str, Any] | None = None) -> list[Measured]:
    """All measured cases, of the package or of a mapping like its file."""
    return [
        Measured(
            each["name"],
            Case(**{key: each[key] for key in Case.__dataclass_fields__}),
            {name: Outcome(**outcome) for name, outcome in each["techniques"].items()},
        )
        for each in (content() if found is None else found)["cases"]
    ]


def expected(case: Case, technique: str, evidence: Sequence[Measured]) -> Expected | None:
    """What to expect of a technique; None where no case has it."""
    having = [(math.exp(-2 * case.distance(each.case)), each) for each in evidence if technique in each.outcomes]
    total = sum(weight for weight, _ in having)
    if not having or total <= 0:
        return None
    outcomes = [(weight / total, each.outcomes[technique]) for weight, each in having]
    nearest = sorted(having, key=lambda pair: -pair[0])[:3]
    return Expected(
        behind=sum(weight * outcome.behind for weight, outcome in outcomes),
        factor=math.exp(sum(weight * math.log(outcome.factor) for weight, outcome in outcomes)),
        nearest=tuple(each.name for _, each in nearest),
        cases=len(having),
    )


def order(expectations: Mapping[str, Expected | None], costs: Mapping[str, float]) -> list[str]:
    """Techniques from the best to the worst: by what is expected; those within `TIE` points of the best by what they cost."""
    known = {name: each.behind for name, each in expectations.items() if each is not None}
    least = min(known.values(), default=0.0)

    def place(name: str) -> tuple[float, float, str]:
        behind = known.get(name)
        if behind is None:
            return math.inf, costs.get(name, math.inf), name
        return (0.0 if behind - least <= TIE else behind), costs.get(name, math.inf), name

    return sorted(expectations, key=place)


def leave_one_out(evidence: Sequence[Measured]) -> list[dict[str, Any]]:
    """For each case, what the others advise, and whether that was within noise of the best of the case.

    Beside it stands what always taking one technique would have come to, since advice that is no better than a habit is none.
    """
    found = []
    for number, one in enumerate(evidence):
        others = [*evidence[:number], *evidence[number + 1 :]]
        expectations = {name: expected(one.case, name, others) for name in one.outcomes}
        ranked = order(expectations, {name: outcome.seconds for name, outcome in one.outcomes.items()})
        chosen = one.outcomes[ranked[0]]
        best = min(one.outcomes, key=lambda name: one.outcomes[name].behind)
        within = {name: outcome.tie or outcome.behind == 0 for name, outcome in one.outcomes.items()}
        found.append(
            {
                "case": one.name,
                "advised": ranked[0],
                "best": best,
                "behind": chosen.behind,
                "within_noise": within[ranked[0]],
                "ties_with_the_best": sorted(name for name, yes in within.items() if yes),
            }
        )
    return found
