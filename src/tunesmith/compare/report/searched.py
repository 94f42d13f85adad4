"""The search of learning rates as a table: a row a technique, a column a factor of its default rate, the loss of each rung, what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.compare import format as human
from tunesmith.compare.search import KEPT, LOWEST

CHOSEN = "◆"


def search_table(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """Heads and rows of the table, and the notes under it; None where nothing was searched."""
    found: Sequence[Mapping[str, Any]] = results.get("search") or []
    if not found:
        return None
    several = len({each["model"] for each in found}) > 1
    factors = list(dict.fromkeys(each["factor"] for one in found for each in one["rates"]))
    rows = []
    for one in found:
        name = one["technique"] + (f", {one['model']}" if several else "")
        by_factor = {each["factor"]: each for each in one["rates"]}
        cells = [_rate(by_factor.get(factor), one["chosen"]) for factor in factors]
        rate = " → ".join(dict.fromkeys(human.rate(one[key]) for key in ("default", "chosen")))
        rows.append([name, *cells, rate, human.count(one["tokens"]), human.seconds(one["seconds"])])
    counts, most = found[0]["rows"], max(len(each["rungs"]) for one in found for each in one["rates"])
    longer = (
        "; a rung in which no rate came off the loss of one answer for every row was followed by one twice as long"
        if most > len(KEPT)
        else ""
    )
    lost = [f"{one['technique']}: {one['why']}" for one in found if one["why"] != LOWEST]
    runs, tokens, seconds = (sum(one[name] for one in found) for name in ("runs", "tokens", "seconds"))
    return {
        "heads": ["technique", *(f"× {factor:g}" for factor in factors), "rate", "tokens", "time"],
        "rows": rows,
        "notes": [
            f"Loss on {counts['validation']:,} validation rows after each rung (→), of trials on {counts['train']:,} training rows with "
            f"a seed for each rung, by factors of the technique's default; {CHOSEN} marks the rate that all its seeds learn with{longer}. All techniques together: {runs} trials, "
            f"{human.count(tokens)} tokens, {human.seconds(seconds)}.",
            *lost,
        ],
    }


def _rate(each: Mapping[str, Any] | None, chosen: float) -> str:
    if each is None or not each["rungs"]:
        return human.MISSING
    shown = " → ".join(f"{rung['loss']:.3f}" if rung["loss"] is not None else rung["status"] for rung in each["rungs"])
    return f"{CHOSEN} {shown}" if each["rate"] == chosen else shown
