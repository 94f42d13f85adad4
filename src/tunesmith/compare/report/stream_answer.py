"""The answer of a stream in two sentences: which strategy keeps most, and which cheaper one these seeds cannot tell from it.

`joint`, which learns all stages at once, is what the others are measured by and no candidate itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.compare import format as human
from tunesmith.compare.report.answer import Answer
from tunesmith.compare.statistics import is_number
from tunesmith.compare.stream_table import difference, scale_of
from tunesmith.compare.streams import JOINT, NONE, interval

Row = Mapping[str, Any]


def stream_answer(results: Mapping[str, Any]) -> Answer:
    """What the comparison says, and how far to trust it."""
    rows = [row for row in results.get("rows") or [] if row["kind"] == "technique"]
    scored = sorted((row for row in rows if row.get("stream")), key=_score, reverse=True)
    if not scored:
        return Answer(["No run finished, so there is nothing to compare; the reasons are below."], [])
    scale = scale_of([row["stream"] for row in scored])
    best = next((row for row in scored if row["strategy"] != JOINT), scored[0])
    first = f"`{best['technique']}` has the highest mean of average accuracy after the last stage, {human.quality(_accuracy(best), scale)}"
    seeds = best["n"]
    first += f" over {seeds} seeds" if seeds > 1 else " with one seed"
    gain = (best.get("against_none") or {}).get("average_accuracy")
    if gain:
        tie = ", a tie with it" if gain["tie"] else ""
        first += f": {difference({**gain, 'tie': False}, scale)} against `{NONE}`{tie}"
    if best.get("recovered") is not None and best["strategy"] != NONE:
        first += f", {human.share(best['recovered'])} of what learning all stages at once gains"
    return Answer([f"{first}.", _second(best, scored)], _cautions(best, scored, rows, results, scale))


def _accuracy(row: Row) -> Mapping[str, Any]:
    return dict(row["stream"]["average_accuracy"])


def _score(row: Row) -> float:
    return float(row["stream"]["average_accuracy"]["mean"])


def _second(best: Row, scored: Sequence[Row]) -> str:
    if best["n"] < 2:
        return (
            "With one seed no interval can be given, so this comparison cannot tell a real difference from chance; "
            "repeat it with at least three seeds."
        )
    others = [row for row in scored if row is not best and row["strategy"] != JOINT and row["seeds"] == best["seeds"]]
    near = [row for row in others if row["status"] == best["status"] == "finished" and _tie(best, row)]
    if not others:
        return "There is no other strategy to weigh it against."
    if not near:
        return "No other one ties with it over the same seeds."
    timed = [row for row in [best, *near] if is_number(row["train_seconds"])]
    cheapest = min(timed, key=lambda row: row["train_seconds"], default=best)
    many = (
        f"{len(near)} other{'s' if len(near) > 1 else ''} tie{'' if len(near) > 1 else 's'} with it over the same seeds"
    )
    if cheapest is best:
        return f"{many}, and it trains in the least time of them."
    spent = f"{human.seconds(cheapest['train_seconds'])} instead of {human.seconds(best['train_seconds'])}"
    return f"{many}, of which `{cheapest['technique']}` trains in the least time ({spent})."


def _tie(best: Row, other: Row) -> bool:
    """Whether the interval of the paired differences holds 0."""
    pairs = zip(_accuracy(best)["values"], _accuracy(other)["values"], strict=False)
    found = interval(a - b for a, b in pairs)
    return found is None or found["low"] is None or found["low"] <= 0 <= found["high"]


def _cautions(
    best: Row, scored: Sequence[Row], rows: Sequence[Row], results: Mapping[str, Any], scale: float
) -> list[str]:
    notes = []
    near = [row for row in scored if (row["plain_technique"], row["model"]) == (best["plain_technique"], best["model"])]
    none = next((row for row in near if row["strategy"] == NONE), None)
    joint = next((row for row in near if row["strategy"] == JOINT), None)
    if none and none["stream"]["forgetting"]:
        lost = none["stream"]["forgetting"]
        text = f"Sequential fine-tuning (`{none['technique']}`) forgets {human.quality(lost, scale)}"
        if lost["low"] is not None and lost["low"] <= 0:
            always = min(lost["values"]) > 0
            text += ", whose interval holds 0: "
            text += "with more seeds it may say more" if always else "this stream leaves little to keep"
        elif none is not best and best["stream"]["forgetting"]:
            text += f", `{best['technique']}` {human.quality(best['stream']['forgetting'], scale)}"
        notes.append(f"{text}.")
    if none and joint and _score(joint) <= _score(none):
        notes.append(f"`{joint['technique']}` is not above `{none['technique']}`, so there is no distance to recover.")
    notes += [
        f"No strategy beats the {row['technique']} baseline ({human.quality(_accuracy(row), scale)})."
        for row in results.get("rows") or []
        if row["kind"] == "baseline" and row.get("stream") and _score(row) >= _score(best)
    ]
    worse = [
        f"{task} ({difference(found, scale)})"
        for task, found in (best.get("against_alone") or {}).items()
        if found and found["negative"]
    ]
    if worse:
        notes.append(
            f"Negative transfer: with `{best['technique']}`, {', '.join(worse)} below the same task trained alone."
        )
    few = [row for row in scored if row["status"] == "partial"]
    if few:
        counts = ", ".join(f"`{row['technique']}` {row['n']} of {len(row['seeds'])}" for row in few)
        notes.append(f"Some seeds did not finish, and means run over those that did: {counts}.")
    lost = [row["technique"] for row in rows if row["status"] in ("failed", "refused")]
    if lost:
        notes.append(f"Without a finished run, so not judged here: {', '.join(f'`{name}`' for name in lost)}.")
    return notes
