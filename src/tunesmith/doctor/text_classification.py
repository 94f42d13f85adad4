"""Checks of text classification: the labels."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tunesmith.doctor.case import Case, Part, folded
from tunesmith.doctor.finding import Finding, counted
from tunesmith.doctor.general.duplicates import conflict

RARE = 5  # training rows of a label below which it can hardly be learned
SKEW = 20  # times that the commonest label may outnumber the rarest
NUMBERS = 20  # different numbers from which they are hardly classes


def labels(case: Case, part: Part) -> list[list[str]]:
    """The labels of each row as text; none where the cell holds none that counts."""
    return case.once(f"labels {part.role}", lambda: _labels(case, part))


def _labels(case: Case, part: Part) -> list[list[str]]:
    separator = case.option("separator")
    found = []
    for value in part.columns.get("label", []):
        if isinstance(value, str) and separator:
            value = [piece.strip() for piece in value.split(separator)]
        several = value if isinstance(value, list) else [value]
        found.append([_name(label) for label in several if label is not None and _name(label)])
    return found


def _name(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)
    return str(value) if str(value).strip() else ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def is_regression(case: Case) -> bool:
    """Whether the labels are amounts, as the task itself would guess."""
    return case.once("regression", lambda: _is_regression(case))


def _is_regression(case: Case) -> bool:
    problem = case.option("problem", "auto")
    if problem != "auto":
        return bool(problem == "regression")
    numbers = [_number(label) for row in labels(case, case.train) for label in row]
    return (
        bool(numbers)
        and None not in numbers
        and any(n != int(n) for n in numbers if n is not None and math.isfinite(n))
    )


def unusable(case: Case) -> Iterator[Finding]:
    """Labels that are empty or not finite."""
    regression = is_regression(case)
    for part in case.parts.values():
        values = part.columns.get("label", [])
        blank = [i for i, value in enumerate(values) if isinstance(value, str) and not value.strip()]
        odd = [
            i for i, value in enumerate(values)
            if (isinstance(value, float) and not math.isfinite(value))
            or (regression and value is not None and i not in set(blank) and not math.isfinite(_number(str(value)) or 0.0))
        ]  # fmt: skip
        if blank:
            yield part.finding(
                "error",
                "empty-label",
                blank,
                f"the label is empty in {counted(len(blank))}",
                "fill it in or remove the rows",
            )
        if odd:
            yield part.finding(
                "error",
                "label-not-finite",
                odd,
                f"the label is no finite number in {counted(len(odd))}",
                "mend or remove the rows",
            )


def unseen(case: Case) -> Iterator[Finding]:
    """Labels of other parts that the training rows do not have, and training rows with one label alone."""
    if case.sampled or is_regression(case):
        return
    known = {label for row in labels(case, case.train) for label in row}
    if len(known) == 1:
        yield case.train.finding(
            "error", "one-class", [], f"every row has the label `{next(iter(known))}`",
            "add rows of another label, or map the right column with --columns label=NAME",
        )  # fmt: skip
    for part in case.parts.values():
        found = {i: label for i, row in enumerate(labels(case, part)) for label in row if label not in known}
        if found:
            names = ", ".join(f"`{label}`" for label in sorted(set(found.values()))[:5])
            yield part.finding(
                "error", "label-unseen", found, f"the label {names} does not occur in the training rows",
                "add training rows of it, or remove these",
            )  # fmt: skip


def balance(case: Case) -> Iterator[Finding]:
    """Rare labels, one label far above the others, and labels that differ in spelling only."""
    if case.sampled or is_regression(case):
        return
    part = case.train
    rows = labels(case, part)
    counts = Counter(label for row in rows for label in row)
    case.note(part, labels=dict(counts.most_common(50)))
    if len(counts) < 2:
        return
    if identifiers(counts, len(rows)):
        yield part.finding(
            "warning", "label-like-id", [], f"there are {len(counts):,} different labels in {counted(len(rows))}, as of a number or an identifier",
            "map the right column with --columns label=NAME, or set text-classification.problem=regression",
        )  # fmt: skip
        return
    rare = {label for label, count in counts.items() if count < RARE}
    found = [i for i, row in enumerate(rows) if rare & set(row)]
    if found:
        names = ", ".join(f"`{label}`" for label in sorted(rare)[:5])
        yield part.finding(
            "warning", "rare-label", found, f"{counted(len(rare), 'label')} with fewer than {RARE} training rows ({names})",
            "add rows, or merge them into another label",
        )  # fmt: skip
    (most, many), (least, few) = counts.most_common(1)[0], counts.most_common()[-1]
    if many > SKEW * few and few >= RARE:
        yield part.finding(
            "warning", "imbalance", [], f"`{most}` has {many:,} rows and `{least}` {few:,}",
            "compare by f1_macro, and try --set text-classification.class_weights=balanced",
        )  # fmt: skip
    spellings: dict[str, list[str]] = {}
    for label in sorted(counts, key=lambda name: -counts[name]):
        spellings.setdefault(folded(label), []).append(label)
    rarer = {label: names[0] for names in spellings.values() for label in names[1:]}
    found = [i for i, row in enumerate(rows) if any(label in rarer for label in row)]
    if found:
        one = next(iter(rarer))
        yield part.finding(
            "warning", "label-spelling", found, f"labels differ only in case or space (`{one}` and `{rarer[one]}`)",
            "write them alike; they are learned as different labels",
        )  # fmt: skip


def identifiers(counts: Counter[str], rows: int) -> bool:
    """Whether labels look like numbers or identifiers: nearly one a row, or many different numbers."""
    if len(counts) >= 10 and len(counts) > rows / 2:
        return True
    return len(counts) > NUMBERS and all(_number(label) is not None for label in counts)


def told(case: Case) -> Iterator[Finding]:
    """A label whose name stands in nearly all of its own rows and in none of the others: the text gives it away."""
    part = case.train
    if is_regression(case) or case.sampled:
        return
    rows = labels(case, part)
    counts = Counter(label for row in rows for label in row)
    if not 2 <= len(counts) <= 50 or identifiers(counts, len(rows)):
        return
    texts = [text.casefold() for text in part.columns["text"] if isinstance(text, str)]
    if len(texts) != len(rows):
        return
    for label, count in counts.items():
        if count < 20 or len(label) < 3 or _number(label) is not None:
            continue
        name = label.casefold()
        holders = [i for i, text in enumerate(texts) if name in text and re.search(rf"\b{re.escape(name)}\b", text)]
        own = [i for i in holders if label in rows[i]]
        if len(own) >= 0.9 * count and len(holders) == len(own):
            yield part.finding(
                "warning", "label-in-text", own, f"the word `{label}` stands in {len(own)} of the {count} rows with that label and in no other",
                "take it out of the text if it will not be there later",
            )  # fmt: skip


ROW_CHECKS = [unusable, unseen, balance, told, conflict]
