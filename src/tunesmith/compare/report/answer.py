"""The answer in two sentences, and what a reader must know before believing it.

First the best technique by the mean of the primary metric; then what is a tie with it by the paired bootstrap (`bootstrap`),
and the one of those that trains in the least time. Results that were not judged so fall back to intervals that overlap: overlap
is not proof of a tie and is not called one. Names stand in backticks; the report sets them in bold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.compare import format as human
from tunesmith.compare.statistics import higher_is_better, is_number, mean_of, primary_metric, sort_rows

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """`sentences` for the top of the page, `cautions` right below them."""

    sentences: list[str]
    cautions: list[str]


def answer(results: Mapping[str, Any]) -> Answer:
    """What the comparison says, and how far to trust it."""
    protocol = results.get("protocol") or {}
    primary = primary_metric(protocol, results.get("runs") or [])
    higher = higher_is_better(protocol, primary)
    scale = human.scale_of(results, primary)
    rows = sort_rows(results.get("rows") or [], higher)
    scored = [row for row in rows if row["kind"] == "technique" and mean_of(row) is not None]
    if not scored:
        return Answer(["No technique finished, so there is nothing to compare; the reasons are below."], [])
    best = scored[0]
    first = f"`{best['technique']}` has the {'highest' if higher else 'lowest'} mean {primary}: {_score(best, scale)}"
    return Answer(
        [f"{first}.", _second(best, scored, higher, scale)],
        _cautions(best, scored, rows, primary, higher, scale, _failed_tests(protocol)),
    )


def _failed_tests(protocol: Mapping[str, Any]) -> list[str]:
    failed = [f"{each['name']} ({each['what']})" for each in protocol.get("self_tests") or [] if not each["passed"]]
    return [f"`Do not trust these numbers`: a self-test of the metrics failed: {'; '.join(failed)}."] if failed else []


def _score(row: Row, scale: float) -> str:
    """`79.3 ± 0.6 over 3 seeds (95 % interval 78.7 to 79.9)`."""
    text = human.quality(row["primary"], scale)
    if row["primary"]["low"] is None:
        return f"{text} with one seed"
    low, high = (human.number(row["primary"][end], scale) for end in ("low", "high"))
    return f"{text} over {row['primary']['n']} seeds (95 % interval {low} to {high})"


def _ties(best: Row, scored: Sequence[Row], higher: bool, scale: float) -> str:
    """What is a tie with the best, and which of it is cheapest."""
    drawn = "eval rows and seeds" if best["primary"]["n"] > 1 else "eval rows"
    chance = "" if best["primary"]["n"] > 1 else "; with one seed nothing is said of other seeds"
    # Two seeds of three may tie because the third is missing: such a row is not recommended.
    near = [
        row for row in scored if row.get("against_best") and row["against_best"]["tie"] and row["status"] == "finished"
    ]
    if not near:
        return f"No other technique is a tie with it: redrawing {drawn} leaves each of them behind{chance}."
    names = ", ".join(f"`{row['technique']}`" for row in near) if len(near) < 4 else f"{len(near)} techniques"
    opening = f"{names} {'are ties' if len(near) > 1 else 'is a tie'} with it (redrawing {drawn} could turn them round{chance})"
    timed = [row for row in [best, *near] if is_number(row["train_seconds"])]
    cheapest = min(timed, key=lambda row: row["train_seconds"], default=best)
    if cheapest is best:
        return (
            f"{opening}, and none of them trains in less time."
            if len(near) > 1
            else f"{opening}, but does not train in less time."
        )
    found, gap = human.quality(cheapest["primary"], scale), _gap(best, cheapest, higher, scale)
    which = f"`{cheapest['technique']}`" if len(near) > 1 else "it"
    return f"{opening}; {which} trains in {'the least' if len(near) > 1 else 'less'} time ({_cost(cheapest, best)}) at {found}, {gap}."


def _second(best: Row, scored: Sequence[Row], higher: bool, scale: float) -> str:
    if any(row.get("against_best") for row in scored):
        return _ties(best, scored, higher, scale)
    if best["primary"]["low"] is None:
        return (
            "With one seed no interval can be given, so this comparison cannot tell a real difference from chance; "
            "repeat it with at least three seeds."
        )
    if len(scored) == 1:
        return "No other technique finished, so there is nothing to weigh it against."
    # An interval over two seeds of three is so wide that it overlaps everything: such a row is not recommended.
    near = [row for row in scored if row is not best and row["status"] == "finished" and _overlap(best, row)]
    if not near:
        if any(_overlap(best, row) for row in scored if row is not best):
            return "No other technique that finished all of its seeds has an interval that overlaps its own."
        return f"No other technique's interval overlaps that of `{best['technique']}`, so these seeds set it apart."
    many = f"{len(near)} technique{'s' if len(near) > 1 else ''}"
    timed = [row for row in [best, *near] if is_number(row["train_seconds"])]
    cheapest = min(timed, key=lambda row: row["train_seconds"], default=best)
    if cheapest is best:
        return f"The intervals of {many} overlap its own, but none of them trains in less time."
    name, found = f"`{cheapest['technique']}`", human.quality(cheapest["primary"], scale)
    if len(near) == 1:
        opening = f"The interval of {name} overlaps its own, and it trains in less time"
    else:
        opening = f"Of the {many} whose intervals overlap its own, {name} trains in the least time"
    gap = _gap(best, cheapest, higher, scale)
    return f"{opening} ({_cost(cheapest, best)}) at {found}, {gap}: these seeds do not separate the two."


def _gap(best: Row, other: Row, higher: bool, scale: float) -> str:
    """The distance of two means as printed, so that a reader who subtracts finds the same."""
    top, low = (human.number(row["primary"]["mean"], scale) for row in (best, other))
    gap = abs(float(top) - float(low))
    decimals = len(top.partition(".")[2])
    return f"{gap:.{decimals}f} {'lower' if higher else 'higher'}" if top != low else "the same to the digits shown"


def _cost(cheap: Row, best: Row) -> str:
    parts = []
    if is_number(best["train_seconds"]):
        parts.append(f"{human.seconds(cheap['train_seconds'])} instead of {human.seconds(best['train_seconds'])}")
    else:
        parts.append(human.seconds(cheap["train_seconds"]))
    if is_number(cheap["peak_memory_bytes"]) and is_number(best["peak_memory_bytes"]):
        low, high = human.in_bytes(cheap["peak_memory_bytes"]), human.in_bytes(best["peak_memory_bytes"])
        parts.append(f"peak memory {low} instead of {high}")
    return ", ".join(parts)


def _overlap(one: Row, other: Row) -> bool:
    """Whether two intervals share a value; a row without an interval overlaps when its mean lies in the other's."""
    ends = []
    for row in (one, other):
        entry = row["primary"]
        ends.append(
            (entry["mean"], entry["mean"]) if entry["low"] is None else (float(entry["low"]), float(entry["high"]))
        )
    return max(ends[0][0], ends[1][0]) <= min(ends[0][1], ends[1][1])


def _cautions(
    best: Row,
    scored: Sequence[Row],
    rows: Sequence[Row],
    primary: str,
    higher: bool,
    scale: float,
    warnings: Sequence[str] = (),
) -> list[str]:
    notes = list(warnings)
    sign = 1.0 if higher else -1.0
    for row in rows:
        if row["kind"] == "technique" or mean_of(row) is None:
            continue
        what = f"the {row['technique']} baseline" if row["kind"] == "baseline" else "the untouched model"
        gap = sign * (float(best["primary"]["mean"]) - float(row["primary"]["mean"]))
        shown = human.quality(row["primary"], scale)
        judged = row.get("against_best")
        if gap <= 0:
            tied = " It is a tie with the best of them." if judged and judged["tie"] else ""
            notes.append(f"No technique beats {what} ({primary} {shown}).{tied}")
        elif judged:
            if judged["tie"]:
                notes.append(f"{what[0].upper()}{what[1:]} ({primary} {shown}) is a tie with the best technique.")
        elif best["primary"]["low"] is not None and _overlap(best, row):
            notes.append(f"The interval of {what} ({primary} {shown}) overlaps the best technique's.")
    few = [row for row in scored if row["status"] == "partial"]
    if few:
        counts = ", ".join(f"`{row['technique']}` {row['n']} of {len(row['seeds'])}" for row in few)
        notes.append(f"Some seeds did not finish, and means run over those that did: {counts}.")
    early = [row["technique"] for row in rows if row["kind"] == "technique" and row["status"] == "dropped"]
    if early:
        named = ", ".join(f"`{name}`" for name in early)
        notes.append(f"Dropped for the time box, so judged on a part of the steps or not at all: {named}.")
    lost = [row["technique"] for row in rows if row["kind"] == "technique" and row["status"] in ("failed", "refused")]
    if lost:
        named = ", ".join(f"`{name}`" for name in lost)
        notes.append(f"Without a finished run, so not judged here: {named}.")
    return notes
