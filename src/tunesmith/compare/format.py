"""Numbers as people read them, the same in the terminal table and in the HTML report.

Three significant digits are enough to choose by. Bytes count in 1024s (KiB, MiB, GiB), as memory does; a missing
value is an en dash, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from tunesmith.compare.statistics import POINTS

MISSING = "–"
UNBOUNDED = frozenset({"loss", "perplexity", "bits_per_byte"})  # not a fraction, so never shown as points
CORRELATIONS = frozenset({"mcc", "pearson", "spearman"})  # shown x100, but not a percentage


def three_digits(value: float) -> str:
    """Three significant digits without an exponent: 0.0123, 1.23, 12.3, 123, 1,234."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.3g}")  # first, so that 0.9996 counts as 1.00 and not as 1.000
    decimals = max(0, 2 - math.floor(math.log10(abs(rounded))))
    return f"{value:,.{min(decimals, 6)}f}"


def forgotten(entry: Mapping[str, Any] | None) -> str:
    """A change of a metric with its sign: +0.138."""
    if entry is None:
        return MISSING
    return "0" if entry["mean"] == 0 else f"{'+' if entry['mean'] > 0 else '-'}{three_digits(abs(entry['mean']))}"


def in_bytes(value: float | None) -> str:
    """A size in 1024s: 900 B, 12.4 KiB, 412 MiB, 1.21 GiB."""
    if value is None:
        return MISSING
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    size, unit = float(value), 0
    while abs(size) >= 999.5 and unit < len(units) - 1:
        size, unit = size / 1024.0, unit + 1
    return f"{size:,.0f} B" if unit == 0 else f"{three_digits(size)} {units[unit]}"


def count(value: float | None) -> str:
    """A count in thousands: 820, 12.4 k, 4.39 M, 1.24 B (billion)."""
    if value is None:
        return MISSING
    size, unit = float(value), 0
    units = ("", " k", " M", " B", " T")
    while abs(size) >= 999.5 and unit < len(units) - 1:
        size, unit = size / 1000.0, unit + 1
    return f"{size:,.0f}" if unit == 0 else f"{three_digits(size)}{units[unit]}"


def seconds(value: float | None) -> str:
    """A duration: 0.84 s, 41.2 s, 3 min 12 s, 1 h 04 min."""
    if value is None:
        return MISSING
    if value < 59.95:
        return f"{three_digits(value)} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(value / 60.0)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def share(value: float | None) -> str:
    """A fraction as a percentage: 100 %, 6.71 %, 0.04 %, <0.01 %."""
    if value is None:
        return MISSING
    percent = 100.0 * value
    if 0 < percent < 0.01:
        return "<0.01 %"
    return f"{percent:.2f} %" if percent < 10 else f"{percent:.1f} %".replace(".0 %", " %")


def rate(value: float | None) -> str:
    """A learning rate in its shortest form: 3e-4, 5e-3, 0.02."""
    if value is None:
        return MISSING
    if value and not 1e-2 <= abs(value) < 1e4:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.4g}"


def metric_scale(name: str, values: Iterable[float] = ()) -> float:
    """What a metric is multiplied by for people: 100 for a fraction, 1 for losses and for what already exceeds 1."""
    if name in UNBOUNDED or any(abs(value) > 1.5 for value in values):
        return 1.0
    return POINTS


def metric_label(name: str, scale: float) -> str:
    """The metric with its unit: `accuracy (%)`, `mcc (×100)`, `loss`."""
    if scale == 1.0:
        return name
    return f"{name} (×100)" if name in CORRELATIONS else f"{name} (%)"


def to_best(entry: Mapping[str, Any] | None, scale: float) -> str:
    """How far a row lies from the best one, `−3.2`, or `tie, −0.4` where redrawing rows and seeds could turn the two round."""
    if entry is None:
        return MISSING
    shown = number(abs(entry["difference"]), scale)
    sign = "" if not float(shown.replace(",", "")) else "−" if entry["difference"] < 0 else "+"
    return f"{'tie, ' if entry['tie'] else ''}{sign}{shown}"


def number(value: float, scale: float) -> str:
    """One value of a metric, with as many decimals as `quality` gives it."""
    shown = value * scale
    return f"{shown:.{_decimals(shown, scale)}f}"


def _decimals(shown: float, scale: float) -> int:
    return 1 if scale != 1.0 or abs(shown) >= 100 else 3 if abs(shown) < 10 else 2


def quality(summary: Mapping[str, Any] | None, scale: float) -> str:
    """A metric as mean ± half its interval, `79.3 ± 0.6`; with one seed the mean alone."""
    if summary is None:
        return MISSING
    mean = summary["mean"] * scale
    decimals = _decimals(mean, scale)
    if summary.get("low") is None:
        return f"{mean:.{decimals}f}"
    half = (summary["high"] - summary["low"]) / 2.0 * scale
    # "± 0.0" would claim that seeds agree exactly; one more digit shows what they differ by.
    if 0 < half < 0.5 * 10**-decimals:
        decimals += 1
    return f"{mean:.{decimals}f} ± {half:.{decimals}f}"


def per_minute(quality_per_cost: float | None, scale: float) -> str:
    """Gain a minute of training in the unit that the metric is shown in, with its sign when it is a loss."""
    if quality_per_cost is None:
        return MISSING
    gain = quality_per_cost / POINTS * scale
    return f"−{three_digits(-gain)}" if gain < 0 else three_digits(gain)


def shorten(text: str, length: int) -> str:
    """The first `length` characters on one line, cut at a word, with an ellipsis when something was cut."""
    line = " ".join(text.split())
    if len(line) <= length:
        return line
    cut = line[: length - 1]
    return (cut.rsplit(" ", 1)[0] if " " in cut[length // 2 :] else cut).rstrip(",;:. ") + "…"


def scale_of(results: Mapping[str, Any], name: str) -> float:
    """The scale of one metric over a whole comparison, so that all of its rows are shown in one unit."""
    summaries = ((row.get("metrics") or {}).get(name) for row in results.get("rows") or [])
    return metric_scale(name, [value for entry in summaries if entry for value in entry["values"]])
