"""A range test of the learning rate (Smith 2017, section 3.3): a short run whose rate grows by a constant factor from step to step.

    r_i = r_n 10^(-D (n - i) / (n - 1))        i = 1 .. n steps, D decades, r_n the largest

Too small a rate leaves the loss where it is, a good one lets it fall, too large a one lets it rise. What is proposed is a quarter of the rate at which
the smoothed loss (an exponential mean, corrected for its start) was lowest: there it still falls, and the rate has room to all sides.
The model, the rows and the technique are the run's own; nothing of what is learned is kept.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith import durable, registry
from tunesmith.config import RunConfig
from tunesmith.console import quiet_libraries, say
from tunesmith.errors import UserError
from tunesmith.run import default_output, execute
from tunesmith.training.diverged import Diverged
from tunesmith.training.log import read

STEPS = 150
TOP = 1.0
SMOOTHING = 0.9
SHARE = 0.25
"""Of the rate with the lowest loss."""
FALLS = 0.015
"""Of the first loss: a smaller fall says nothing."""


@dataclass(frozen=True)
class Found:
    """What a range test found.

    Attributes:
        rates: of every step.
        losses: of every step.
        smoothed: the same, smoothed.
        lowest: the rate at which that was lowest.
        proposed: the rate to take; None where no rate let the loss fall.
        default: the rate that would be taken unasked.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    lowest: float
    proposed: float | None
    default: float

    def sentence(self) -> str:
        """What to do, and why."""
        first, least = self.smoothed[0], min(self.smoothed)
        if self.proposed is None:
            return (
                f"no rate up to {self.rates[-1]:.2g} let the loss fall in {len(self.rates)} steps (from {first:.3g} to {least:.3g} at best); keep the default, "
                f"--learning-rate {self.default:g}, and look at the rows (`tunesmith doctor`) or at what learns."
            )
        end = "rose beyond it" if self.smoothed[-1] > least * 1.1 else "stayed there"
        return (
            f"take --learning-rate {self.proposed:g}: the loss fell from {first:.3g} to {least:.3g} at a rate of {self.lowest:.2g} and {end}, and a quarter of that "
            f"leaves room; unasked it would be {self.default:g}."
        )


def judge(rates: Sequence[float], losses: Sequence[float], default: float) -> Found:
    """The proposal from a curve.

    Args:
        rates: of every step, growing.
        losses: of every step.
        default: of the technique.

    Raises:
        UserError: there are too few points.
    """
    if len(rates) < 10:
        raise UserError(
            f"the range test ended after {len(rates)} steps, before anything could be told; look at the rows or take another --dtype."
        )
    smoothed, mean = [], 0.0
    for number, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed.append(mean / (1 - SMOOTHING**number))
    place = min(range(len(smoothed)), key=smoothed.__getitem__)
    falls = smoothed[0] - smoothed[place] > FALLS * smoothed[0]
    proposed = _round(SHARE * rates[place]) if falls else None
    return Found(list(rates), list(losses), smoothed, rates[place], proposed, default)


def _round(rate: float) -> float:
    """One digit: the test is not more exact."""
    return float(f"{rate:.0e}")


def find(config: RunConfig) -> tuple[Found, Path]:
    """Carry the test out; what it found, and the plot.

    Raises:
        UserError: it is a stream, or nothing can be told.
    """
    if config.stream is not None or config.continue_from:
        raise UserError("--find-learning-rate looks at one run; give --train instead of a stream.")
    quiet_libraries()
    from tunesmith.techniques._base import create
    from tunesmith.techniques._rate import usual_rate

    options = config.options.get(registry.resolve("technique", config.technique).name)
    default = usual_rate(config, create(config.technique, options))
    changes: dict[str, Any] = {
        "schedule": "range", "warmup": 0.0, "log_every": 1, "checkpoint_every": None, "evaluate_every": None, "evaluations": None,
        "keep_best": False, "early_stopping": None, "guards": False, "plan": False,
    }  # fmt: skip
    training = config.training.model_copy(update=changes)
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        place = Path(folder) / "run"
        trial = config.model_copy(
            update={
                "training": training, "max_steps": STEPS, "epochs": None, "learning_rate": TOP, "output": str(place), "max_eval_rows": 8, "retain": None,
                "report_to": [],
            }
        )  # fmt: skip
        say(f"Range test: {STEPS} steps at learning rates up to {TOP:g} ...")
        with suppress(Diverged):  # the end of the range
            execute(trial)
        lines = [
            line for line in read(place / "metrics.jsonl") if line["event"] == "train" and math.isfinite(line["loss"])
        ]
    found = judge([line["learning_rate"] for line in lines], [line["loss"] for line in lines], default)
    output = Path(config.output or default_output(config.model_dump()))
    return found, keep(found, output, config)


def keep(found: Found, output: Path, config: RunConfig) -> Path:
    """Write learning_rate.json and the plot, learning_rate.html, into the run's folder."""
    import plotly.graph_objects as go

    output.mkdir(parents=True, exist_ok=True)
    durable.write(
        output / "learning_rate.json", json.dumps({**vars(found), "sentence": found.sentence()}, indent=2) + "\n"
    )
    figure = go.Figure(
        [
            go.Scatter(x=found.rates, y=found.losses, name="loss of a step", mode="lines", line={"color": "#9aa5b1", "width": 1}),
            go.Scatter(x=found.rates, y=found.smoothed, name="smoothed", mode="lines", line={"color": "#1f6feb", "width": 2}),
        ]
    )  # fmt: skip
    low, high = min(found.smoothed), found.smoothed[0]
    room = max(high - low, 0.1 * high)
    figure.update_layout(
        title=f"Learning rate of {config.technique} on {config.model}<br><sub>{found.sentence()}</sub>", template="plotly_white",
        xaxis={"type": "log", "title": "learning rate", "exponentformat": "power"}, yaxis={"title": "training loss", "range": [low - room, high + 2 * room]},
    )  # fmt: skip
    for rate, text in ((found.proposed, "proposed"), (found.default, "default")):
        if rate is not None:
            figure.add_vline(x=rate, line_dash="dot", line_width=1)
            figure.add_annotation(
                x=math.log10(rate),
                y=1.0,
                yref="paper",
                text=text,
                textangle=-90,
                xanchor="right",
                yanchor="top",
                showarrow=False,
            )
    page = figure.to_html(include_plotlyjs=True, full_html=True)
    durable.write(output / "learning_rate.html", page)
    return output / "learning_rate.html"
