"""Which technique to take for a case: a ranking with the reason for each place and what the reason rests on.

    1. what is refused, or does not fit into memory, comes last
    2. what does not give what is needed (`NEEDS`) comes behind what does
    3. then the points that it is expected to be behind the best (`evidence.expected`)
    4. within half a point of the best: the cheaper in predicted seconds

Every reason names a rule, what it says of this case, and its evidence: a prediction, a measured result of ours, or a paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tunesmith import registry
from tunesmith.errors import UserError
from tunesmith.plan.evidence import Case, Expected, Measured, content, expected, measured, order
from tunesmith.techniques._base import Technique
from tunesmith.techniques._rate import default_rate

NEEDS = {
    "merge": "one plain model folder at the end",
    "switch": "many tasks beside each other on one base",
    "latency": "answers as fast as the model's own",
    "keep": "what the model could do before stays at hand",
}
MEASURED = "benchmarks/results/advice.json"
SAME = 1.1  # times as long: less is within what two measurements of one model differ by


@dataclass(frozen=True)
class Reason:
    """One rule, applied.

    Attributes:
        rule: its name.
        says: what it says of this technique here.
        evidence: what that rests on.
        against: whether it speaks against the technique.
    """

    rule: str
    says: str
    evidence: str
    against: bool = False


@dataclass(frozen=True)
class Advised:
    """A technique and its place.

    Attributes:
        technique: registry name.
        behind: points below the best that are expected; None where nobody has measured it.
        learning_rate: the technique's default, times what searches found in measured cases.
        reasons: for its place.
        possible: it is not refused, and is not known not to fit.
        unmet: needs that it does not give.
    """

    technique: str
    behind: float | None
    learning_rate: float | None
    reasons: tuple[Reason, ...]
    possible: bool = True
    unmet: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Advice:
    """What to take.

    Attributes:
        case: what it is about.
        needs: what was asked for.
        ranked: all techniques, the advised one first.
        strategies: of a stream, from the one that kept most.
    """

    case: Case
    needs: tuple[str, ...]
    ranked: tuple[Advised, ...]
    strategies: tuple[dict[str, Any], ...] = field(default=())

    @property
    def best(self) -> Advised | None:
        """The one to take; None where none is possible."""
        return self.ranked[0] if self.ranked and self.ranked[0].possible else None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "case": asdict(self.case),
            "needs": list(self.needs),
            "technique": None if self.best is None else self.best.technique,
            "ranked": [each.as_json() for each in self.ranked],
            "strategies": list(self.strategies),
        }


def needs_of(words: Iterable[str]) -> tuple[str, ...]:
    """Checked.

    Raises:
        UserError: one is none of `NEEDS`.
    """
    found = tuple(dict.fromkeys(words))
    for word in found:
        if word not in NEEDS:
            meant = "; ".join(f"{name} ({what})" for name, what in NEEDS.items())
            raise UserError(f"--needs takes some of {meant}; `{word}` is none of them.")
    return found


def advise(
    task: str,
    predictions: Sequence[Mapping[str, Any]],
    needs: Sequence[str] = (),
    *,
    stages: int = 1,
    strategies: Sequence[str] | None = None,
    evidence: Sequence[Measured] | None = None,
) -> Advice:
    """Rank techniques by what they are predicted to take and what was measured of them.

    Args:
        task: registry name.
        predictions: entries of `dry_run.predict_all`, one a technique.
        needs: words of `NEEDS`.
        stages: tasks that are learned one after the other.
        strategies: those that can keep them; default: all.
        evidence: measured cases; default: those of the package.

    Raises:
        UserError: a need that is none, or nothing could be planned at all.
    """
    wanted = needs_of(needs)
    planned = [each for each in predictions if each["status"] == "planned"]
    if not planned:
        raise UserError(
            f"No technique can be advised: {predictions[0]['reason'] if predictions else 'none was planned.'}"
        )
    rows, architecture = planned[0]["rows"], planned[0]["architecture"]
    parameters = min(each["total_parameters"] for each in planned)
    case = Case(task, architecture, parameters, rows, planned[0].get("num_labels") or 1)
    known = measured() if evidence is None else evidence
    expectations = {each["technique"]: expected(case, _plain(each["technique"]), known) for each in planned}
    costs = {each["technique"]: math.inf if each["seconds"] is None else each["seconds"] for each in planned}
    ranked = order(expectations, costs)
    by_name = {each["technique"]: each for each in planned}
    found = [_one(case, by_name[name], expectations[name], wanted, stages) for name in ranked]
    found.sort(key=lambda each: (not each.possible, len(each.unmet)))  # stable: what was expected decides within
    refused = [
        Advised(each["technique"], None, None, (Reason("refused", str(each["reason"]), "this model", True),), False)
        for each in predictions
        if each["status"] != "planned"
    ]
    return Advice(case, wanted, (*found, *refused), _strategies(strategies) if stages > 1 else ())


def _plain(technique: str) -> str:
    """What a variant is measured as: the technique that it is, with the base stored otherwise."""
    return registry.load("technique", technique).variant_of or technique


def _one(case: Case, planned: Mapping[str, Any], hoped: Expected | None, needs: Sequence[str], stages: int) -> Advised:
    """One technique that can be planned: for and against it."""
    name = planned["technique"]
    kind: type[Technique] = registry.load("technique", name)
    reasons = [_of_quality(hoped), *_of_cost(planned), _of_rows(case, planned)]
    unmet = []
    for need in (*needs, *(["switch"] if stages > 1 and "switch" not in needs else [])):
        reason = RULES[need](name, kind, planned)
        reasons.append(reason)
        if reason.against and need in needs:
            unmet.append(need)
    rate = None
    if hoped is not None:
        rate = float(f"{default_rate(kind, [registry.load('task', case.task)]) * hoped.factor:.2g}")
    return Advised(
        name, None if hoped is None else round(hoped.behind, 2), rate, tuple(reasons), planned["fits"] is not False, tuple(unmet)
    )  # fmt: skip


def _of_quality(hoped: Expected | None) -> Reason:
    if hoped is None:
        return Reason("quality", "nobody has measured it beside the others", "none", True)
    says = f"{hoped.behind:.1f} points behind the best expected, mostly from {', '.join(hoped.nearest)}"
    return Reason("quality", says, f"{MEASURED} ({hoped.cases} comparisons, three seeds, searched rates)")


def _of_cost(planned: Mapping[str, Any]) -> list[Reason]:
    reasons = []
    peak, available = planned["memory_bytes"], planned["available_bytes"]
    if peak is not None:
        says = f"takes {peak / 2**30:.2f} of {available / 2**30:.1f} GiB"
        if planned["fits"] is False:
            says += ", which does not fit with a quarter to spare"
            most = planned["largest_batch"]
            says += f"; {most} rows in a pass would (training.micro_batch_size)" if most else ""
        reasons.append(Reason("memory", says, "predicted on these rows", planned["fits"] is False))
    if planned["seconds"] is not None:
        reasons.append(Reason("time", f"{planned['seconds']:.1f} s of training", "predicted on this machine"))
    return reasons


def _of_rows(case: Case, planned: Mapping[str, Any]) -> Reason:
    learning = planned["trainable_parameters"]
    says = f"{case.rows:,} rows teach {learning:,} parameters, {learning / max(case.rows, 1):,.0f} a row"
    if case.num_labels > 1:
        says += f"; {case.rows_a_label:.3g} rows a label"
    return Reason("rows", says, f"counted; what that does to quality is in {MEASURED}")


def _of_merging(name: str, kind: type[Technique], planned: Mapping[str, Any]) -> Reason:
    if kind.saves == "model":
        return Reason("merge", "is a plain model folder already", "docs/artifacts.md")
    if kind.folds:
        return Reason("merge", "folds into the base weights with `tunesmith merge`", "docs/artifacts.md")
    return Reason("merge", "cannot be folded into the base weights", "docs/artifacts.md", True)


def _of_switching(name: str, kind: type[Technique], planned: Mapping[str, Any]) -> Reason:
    size = planned["artifact_bytes"]
    said = "" if size is None else f", {size / 2**20:.1f} MiB a task"
    if kind.saves == "model":
        return Reason("switch", f"a whole model for every task{said}", "predicted", True)
    return Reason("switch", f"one base serves all tasks{said}", "predicted; benchmarks/results/serving.json")


def _of_latency(name: str, kind: type[Technique], planned: Mapping[str, Any]) -> Reason:
    ratio = content()["latency"].get(_plain(name))
    merged = ", before merging" if kind.folds and kind.saves != "model" else ""
    said = "" if ratio is None else f" ({ratio:.2f} times as long for one row of minilm{merged})"
    evidence = f"{MEASURED}; Hu 2021, table 1"
    if kind.folds:
        return Reason("latency", f"adds nothing to an answer once merged{said}", evidence)
    if ratio is not None and ratio <= SAME:
        return Reason("latency", f"adds next to nothing to an answer{said}", evidence)
    return Reason("latency", f"adds to every answer{said}", evidence, True)


def _of_keeping(name: str, kind: type[Technique], planned: Mapping[str, Any]) -> Reason:
    evidence = "benchmarks/results/streams_tasks.json; measure yours with --retain"
    if kind.saves == "model":
        return Reason("keep", "overwrites the weights that hold what was known", evidence, True)
    return Reason("keep", "taken off, the model is to the bit what it was", evidence)


RULES = {"merge": _of_merging, "switch": _of_switching, "latency": _of_latency, "keep": _of_keeping}


def _strategies(able: Sequence[str] | None) -> tuple[dict[str, Any], ...]:
    """How stages are kept, from the best average of the measured stream."""
    measured_ones = {name: each for name, each in content()["strategies"].items() if able is None or name in able}
    best_first = sorted(measured_ones, key=lambda name: -measured_ones[name]["average"])
    return tuple({"strategy": name, **measured_ones[name]} for name in best_first)
