"""Metrics that test themselves on the comparison's own predictions, so that a wrong one is found before anybody believes it.

    identity     an adapter that changes nothing answers as before, so it forgets exactly 0; one that spoils an answer forgets more than 0
    chance       answers against shuffled targets score what chance does: its expectation is known in closed form (below) or as the mean
                 over all pairs of an answer and a target; the mean of 30 shuffles must lie within 5 of its standard errors
    two ways     what the runs wrote (scikit-learn, SciPy, torchmetrics, sacrebleu) against the sums of what each row adds, and the primary
                 metric counted by a few plain lines from predictions as people read them

With r_j, p_j, t_j how often label j is right, predicted and true among n, a shuffle leaves p_j and t_j as they are and E[r_j] = p_j t_j / n, so

    E[accuracy] = sum_j p_j t_j / n^2        E[f1 of j] = 2 E[r_j] / (p_j + t_j)        E[pearson] = 0

A metric of forgetting in a public comparison was wrong for seven months; its ranks had a correlation of 0.19 with the corrected ones. This is cheap
(well under a second): nothing is scored by a model.
"""

from __future__ import annotations

import math
import random
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.metrics.counts import columns_of, row_counts, score

if TYPE_CHECKING:
    from tunesmith.compare.judging import Answers, Scene

Found = dict[str, Any]
SHUFFLES = 30
ERRORS = 5.0  # standard errors: a right metric fails once in ten thousand comparisons
CLOSE = 1e-5  # torchmetrics counts in fp32
PAIRS = 40  # rows of which every answer is scored against every target


def carry_out(answers: Sequence[Answers], scene: Scene, primary: str) -> list[Found]:
    """Every self-test that these predictions allow, each with what was expected and found.

    Args:
        answers: of all runs.
        scene: the eval rows.
        primary: the metric that techniques are ranked by.
    """
    counted = [each for each in answers if each.columns]
    of_techniques = [each for each in counted if each.run["kind"] == "technique"]
    if not of_techniques:
        return []
    sign = 1.0 if scene.task.higher_is_better else -1.0
    one = max(of_techniques, key=lambda each: sign * each.run["metrics"]["after"].get(primary, -sign * math.inf))
    found = [*identity(one, scene, primary), two_ways(counted, scene)]
    found += [test for test in (by_hand(one, scene, primary), chance(one, scene, primary)) if test is not None]
    return found


def result(
    name: str, what: str, expected: float | str, found: float, tolerance: float, passed: bool | None = None
) -> Found:
    """A self-test's entry; it passes where both agree to the tolerance."""
    ok = abs(float(expected) - found) <= tolerance if passed is None else passed
    return {
        "name": name,
        "what": what,
        "expected": expected,
        "found": found,
        "tolerance": tolerance,
        "passed": bool(ok),
    }


# ---- forgetting


def identity(one: Answers, scene: Scene, primary: str) -> list[Found]:
    """Forgetting of answers that are what they were, and of answers of which one row is worse."""
    from tunesmith.evaluation.forgetting import change
    from tunesmith.metrics.transfer import transfer

    metric, rows = scene.task.metric(), len(scene.table)
    sign = 1.0 if scene.task.higher_is_better else -1.0

    def scored(lines: Sequence[Mapping[str, Any]]) -> float:
        return score(metric, columns_of([line["counts"] for line in lines]), rows)[primary]

    before, after = scored(one.lines), scored(one.lines)
    matrix: list[list[float | None]] = [[before, before], [after, after]]
    stream = transfer(matrix, [before, before], [sign, sign])
    lost = max((abs(change(primary, before, after)), abs(stream["forgetting"]), abs(stream["backward_transfer"])))
    what = f"forgetting by {primary} of an adapter that changes no answer"
    tests = [result("identity forgets nothing", what, 0.0, lost, 0.0)]
    worse = spoiled(one, primary)
    if worse is not None:
        fallen = change(primary, before, scored(worse))
        what = f"forgetting by {primary} where one right answer turned wrong"
        tests.append(result("a lost answer is forgotten", what, "more than 0", fallen, 0.0, fallen > 0))
    return tests


def spoiled(one: Answers, primary: str) -> list[dict[str, Any]] | None:
    """The lines with one row's counts made worse: a wrong label, nothing found, no answer, twice the nats; None where no row can be."""
    for place, line in enumerate(one.lines):
        counts = dict(line["counts"])
        cell = next((name for name in counts if re.fullmatch(r"(-?\d+)>\1", name)), None)
        if cell is not None:
            bad = {name: value for name, value in counts.items() if name != cell} | {f"{cell.split('>')[0]}>-1": 1}
        elif primary in ("perplexity", "bits_per_byte") and "nats" in counts:
            bad = {**counts, "nats": 2 * counts["nats"]}
        elif any(name.startswith("right:") for name in counts):
            bad = {name: value for name, value in counts.items() if not name.startswith(("right:", "exact"))}
        elif counts.get("f1") and counts.get("f2"):
            bad = {name: value for name, value in counts.items() if name not in ("f1", "f2", "exact", "exact2")}
        else:
            continue
        return [{**other, "counts": bad} if i == place else other for i, other in enumerate(one.lines)]
    return None


# ---- two independent computations


def two_ways(counted: Sequence[Answers], scene: Scene) -> Found:
    """Every metric of every run, as it was written and as the sum of what rows add."""
    metric, rows, largest, compared = scene.task.metric(), len(scene.table), 0.0, 0
    for each in counted:
        after = each.run["metrics"]["after"]
        for name, value in score(metric, each.columns, rows).items():
            if name in after:
                largest = max(largest, abs(value - after[name]) / max(1.0, abs(after[name])))
                compared += 1
    what = (
        f"largest difference of {compared} metrics of {len(counted)} runs, computed by libraries and as sums over rows"
    )
    return result("two ways to compute", what, 0.0, largest, CLOSE, largest <= CLOSE and compared > 0)


def by_hand(one: Answers, scene: Scene, primary: str) -> Found | None:
    """The primary metric of one run by a few plain lines; None where there are none for it."""
    after, task = one.run["metrics"]["after"], scene.task
    if primary == "perplexity" and "loss" in after:
        expected, how = (
            math.exp(min(after["loss"], 700.0)),
            "exp of the loss, which another pass over the batches sums up",
        )
    else:
        count = BY_HAND.get((task.name, primary))
        if count is None:
            return None
        shown = [line["prediction"] for line in one.lines]
        found = count(shown, [dict(row) for row in scene.table], task)
        if found is None:
            return None
        expected, how = found, "counted again in plain Python from the predictions"
    name = f"{one.run['technique']}, seed {one.run['seed']}"
    close = CLOSE * max(1.0, abs(expected)) * (100 if primary == "perplexity" else 1)
    return result("counted by hand", f"{primary} of {name}: {how}", expected, after[primary], close)


def _labels(shown: Sequence[Any], rows: Sequence[Mapping[str, Any]], task: Any) -> float | None:
    if task.problem != "single-label":
        return None
    right = 0
    for label, row in zip(shown, rows, strict=True):
        true = row["label"]
        whole = isinstance(true, float) and true.is_integer()
        true = str(true).lower() if isinstance(true, bool) else int(true) if whole else true
        right += str(label) == str(true)
    return right / len(rows)


def _label_sets(shown: Sequence[Any], rows: Sequence[Mapping[str, Any]], task: Any) -> float:
    split = task.options.separator or "|"
    wanted = [row["label"].split(split) if isinstance(row["label"], str) else row["label"] for row in rows]
    true = [{str(label).strip() for label in labels} for labels in wanted]
    said = [{str(label) for label in labels} for labels in shown]
    each = []
    for label in task.labels:
        both = sum(label in s and label in t for s, t in zip(said, true, strict=True))
        sides = sum(label in s for s in said) + sum(label in t for t in true)
        each.append(2 * both / sides if sides else 0.0)
    return sum(each) / len(each)


def _pearson(shown: Sequence[Any], rows: Sequence[Mapping[str, Any]], task: Any) -> float:
    x, y = [float(value) for value in shown], [float(row["label"]) for row in rows]
    mx, my = math.fsum(x) / len(x), math.fsum(y) / len(y)
    both = math.fsum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    sides = math.fsum((a - mx) ** 2 for a in x) * math.fsum((b - my) ** 2 for b in y)
    return both / math.sqrt(sides) if sides else 0.0


def _entities(shown: Sequence[Any], rows: Sequence[Mapping[str, Any]], task: Any) -> float:
    """Spans found by a regular expression over tags as text, which is how nothing else here does it."""

    def spans(tags: Sequence[Any]) -> set[tuple[str, int, int]]:
        text = "".join(f"{tag} " for tag in map(str, tags))
        found = set()
        for match in re.finditer(r"(?<!\S)[BI]-(\S+) (?:I-\1 )*", text):
            begin = text[: match.start()].count(" ")
            found.add((match[1], begin, begin + match[0].count(" ")))
        return found

    right = said = there = 0
    for tags, row in zip(shown, rows, strict=True):
        one, other = spans(tags), spans(task.truth(row))
        right, said, there = right + len(one & other), said + len(one), there + len(other)
    return 2 * right / (said + there) if said + there else 0.0


def _tags(shown: Sequence[Any], rows: Sequence[Mapping[str, Any]], task: Any) -> float:
    pairs = [pair for tags, row in zip(shown, rows, strict=True) for pair in zip(tags, task.truth(row), strict=True)]
    return sum(str(a) == str(b) for a, b in pairs) / len(pairs)


def _answer_f1(shown: Sequence[Any], rows: Sequence[Mapping[str, Any]], task: Any) -> float | None:
    accepted = [task.truth(row) for row in rows]
    if not all(accepted):
        return None  # what counts where there is no answer is two pages of rules

    def plain(text: str) -> list[str]:
        kept = "".join(c for c in text.lower() if c not in string.punctuation)
        return [word for word in re.split(r"\s+", re.sub(r"\b(?:a|an|the)\b", " ", kept)) if word]

    total = 0.0
    for text, texts in zip(shown, accepted, strict=True):
        best = 0.0
        for other in texts:
            a, b = plain(text), plain(other)
            common = sum(min(a.count(word), b.count(word)) for word in set(a))
            best = max(best, 2 * common / (len(a) + len(b)) if common else 0.0)
        total += best
    return total / len(rows)


BY_HAND: dict[tuple[str, str], Callable[[Sequence[Any], Sequence[Mapping[str, Any]], Any], float | None]] = {
    ("text-classification", "accuracy"): _labels,
    ("text-classification", "f1_macro"): _label_sets,
    ("text-classification", "pearson"): _pearson,
    ("token-classification", "f1"): _entities,
    ("token-classification", "accuracy"): _tags,
    ("question-answering", "f1"): _answer_f1,
}


# ---- chance


def chance(one: Answers, scene: Scene, primary: str) -> Found | None:
    """The mean score of one run's answers against shuffled targets, and what chance is; None where answers are no answers."""
    pairs = pairs_of(one, scene)
    if pairs is None:
        return None
    said, true, make, name = pairs
    name = name or primary
    expected, kind, spread = expected_by_chance(said, true, make, name)
    draw, scores = random.Random(0), []
    for _ in range(SHUFFLES):
        drawn = list(true)
        draw.shuffle(drawn)
        metric = make()
        for value, target in zip(said, drawn, strict=True):
            metric.update(value, target)
        scores.append(metric.compute()[name])
    # Where answers and targets hardly ever meet, 30 shuffles may all score the same, which is not to know the mean exactly.
    error = max(float(np.std(scores, ddof=1)), spread) / math.sqrt(SHUFFLES)
    what = f"{name} of {one.run['technique']}, seed {one.run['seed']}, against shuffled targets: {kind}"
    return result("shuffled targets give chance", what, expected, float(np.mean(scores)), ERRORS * error + CLOSE)


def pairs_of(one: Answers, scene: Scene) -> tuple[list[Any], list[Any], Callable[[], Any], str | None] | None:
    """Answers and targets that may be shuffled, the metric that scores them, and the score if it is not the primary one."""
    from tunesmith.metrics.entities import TagMetric
    from tunesmith.metrics.text import TextOverlap
    from tunesmith.tasks._base import Answer

    task, shown = scene.task, [line.get("prediction") for line in one.lines]
    if task.name == "text-classification":
        said = [
            task.truth(task.with_answer(row, Answer(None, {"prediction": value}, [])))
            for row, value in zip(scene.table, shown, strict=True)
        ]
        return said, scene.truths, task.metric, None
    if task.name == "token-classification":  # word by word: rows have different lengths
        words = [[str(tag)] for tags in shown if tags is not None for tag in tags]
        return words, [[tag] for tags in scene.truths for tag in tags], TagMetric, "accuracy"
    if task.name == "question-answering":
        return shown[:PAIRS], scene.truths[:PAIRS], task.metric, None
    written = [(text, true) for text, true in zip(shown, scene.truths, strict=True) if isinstance(text, str)]
    if task.name in ("summarization", "instruction", "chat") and len(written) > 1:
        few = written[: PAIRS // 4]
        return [text for text, _ in few], [true for _, true in few], TextOverlap, "rouge1"
    return None


def expected_by_chance(
    said: Sequence[Any], true: Sequence[Any], make: Callable[[], Any], name: str
) -> tuple[float, str, float]:
    """The expectation over all orders of the targets, where it comes from, and how far one order scatters at most (a standard deviation).

    Of a mean of a_ij over rows i with targets j it is at most s(a) / sqrt(n - 1) over all pairs (Hoeffding 1951); r_j is hypergeometric, and
    a mean of F1 scatters at most by the mean of theirs.
    """
    if name in ("pearson", "spearman"):
        return 0.0, "no correlation", 0.0
    columns = columns_of(row_counts(make(), said, true) or [])
    shares = _sides(columns)
    if shares is not None and name in ("accuracy", "f1_macro"):
        n = sum(t for _, t in shares.values()) if name == "accuracy" else len(said)
        each = {label: (p * t / n, p + t) for label, (p, t) in shares.items()}
        if name == "accuracy":
            share = sum(right for right, _ in each.values()) / n
            return share, "sum of predicted times true shares", math.sqrt(share * (1 - share) / max(n - 1, 1))
        used = [2 * right / sides for label, (right, sides) in each.items() if label != "-1" and sides]
        width = int(columns["cells"][0]) if "cells" in columns else len(used)
        apart = [
            2 / (p + t) * math.sqrt(p * t * (n - p) * (n - t) / (n * n * max(n - 1, 1)))
            for label, (p, t) in shares.items()
            if label != "-1" and p + t
        ]
        return sum(used) / width, "mean of 2 E[right] / (predicted + true)", sum(apart) / width
    metric, few = make(), min(len(said), PAIRS)
    crossed = [(said[i], true[j]) for i in range(few) for j in range(few)]
    counts = row_counts(metric, [a for a, _ in crossed], [b for _, b in crossed]) or []
    alone = [score(metric, columns_of([each]), 1).get(name, 0.0) for each in counts]
    mean = score(metric, columns_of(counts), len(counts))[name]
    spread = float(np.std(alone)) / math.sqrt(max(few - 1, 1))
    return mean, "mean over all pairs of an answer and a target", spread


def _sides(columns: Mapping[str, Any]) -> dict[str, tuple[float, float]] | None:
    """How often each label is predicted and true; None of other metrics."""
    said: Counter[str] = Counter()
    true: Counter[str] = Counter()
    for name, values in columns.items():
        kind, _, label = name.partition(":")
        if kind == "predicted" and label:
            said[label] += values.sum()
        elif kind == "true" and label:
            true[label] += values.sum()
        elif re.fullmatch(r"-?\d+>-?\d+", name):
            one, _, other = name.partition(">")
            true[one] += values.sum()
            said[other] += values.sum()
    return {label: (said[label], true[label]) for label in said | true} or None
