"""A time box: how long it is, how much of it is left, how many steps and rungs fit into it.

Successive halving (Jamieson & Talwalkar 2016, algorithm 1, with a third kept in place of a half) costs, for n runs of S steps in m rungs,

    sum over rungs j of n / 3^j (open + (3^(j + 1 - m) - 3^(j - m)) S step) + close

seconds, where `open` is what a run takes beside its steps (start, loading, evaluation) each time it is taken up. Solved for S, it says how many
steps each run may have; more rungs mean more steps for the winner and an earlier end for the rest.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass

from tunesmith.config import CompareConfig
from tunesmith.errors import ConfigError, UserError

KEPT = 3  # one of so many goes on where time is short
FEWEST_STEPS = 20  # a schedule of fewer learns nothing that could be compared
SLACK = 0.85  # of what is left is planned with: estimates of a few steps are rough


def parse(text: str) -> tuple[float | None, float | None]:
    """(seconds, None) of `90s`, `20m`, `1h30m`; (None, times) of `3x`.

    Raises:
        UserError: it is neither.
    """
    word = text.strip().lower().replace(" ", "")
    times = re.fullmatch(r"(\d+(?:\.\d+)?)x", word)
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", word)
    if times and float(times[1]) >= 1:
        return None, float(times[1])
    found = [float(part or 0) for part in parts.groups()] if parts and word else [0.0]
    seconds = sum(part * unit for part, unit in zip(found, (3600, 60, 1), strict=False))
    if seconds <= 0:
        raise UserError(
            f"--budget takes a time such as 90s, 20m or 1h30m, or from 1x on a multiple of one full fine-tuning such as 3x; got `{text}`."
        )
    return seconds, None


def check(config: CompareConfig) -> None:
    """Settle what a time box needs, and refuse what does not fit into one.

    Raises:
        ConfigError: with the setting that has to go.
    """
    if config.budget is None:
        return
    _, times = parse(config.budget)
    if "seeds" not in config.model_fields_set:
        config.seeds = [0]
    problems = []
    if len(config.seeds) > 1:
        problems.append(("seeds", "are more than one, and a time box has one; leave --seeds or --budget out."))
    for name, there in (
        ("stream", config.stream is not None),
        ("grid", bool(config.grid)),
        ("jobs", config.jobs > 1),
        ("ray", config.ray),
        ("search", config.search != "none"),
    ):
        if there:
            problems.append((name, "does not go together with budget; leave one of them out."))
    if times is not None and "full" not in config.techniques:
        problems.append(
            (
                "budget",
                "counts in full fine-tunings, so full must be among the techniques; add it, or give a time such as 20m.",
            )
        )
    if problems:
        raise ConfigError(problems)
    if config.training.evaluations is None and config.training.evaluate_every is None:
        config.training.evaluations = 1  # beside the rungs' own
    config.training.hold_out_validation = True


class Clock:
    """What is left of the box."""

    def __init__(self, seconds: float, began: float, before: float = 0.0) -> None:
        """Begin.

        Args:
            seconds: of the box.
            began: on the clock of `time.perf_counter`.
            before: seconds that earlier, interrupted, calls took.
        """
        self.seconds, self.began, self.before = seconds, began, before

    @property
    def spent(self) -> float:
        """Seconds since the begin, in all calls."""
        return self.before + time.perf_counter() - self.began

    @property
    def left(self) -> float:
        """Seconds for runs: what is left but for the report."""
        return self.seconds - self.spent - max(2.0, 0.02 * self.seconds)


@dataclass(frozen=True)
class Fit:
    """What fits into a box.

    Attributes:
        steps: of a whole run.
        shares: of the steps at which runs are judged, the last one 1.
        runs: how many can be begun.
    """

    steps: int
    shares: list[float]
    runs: int


def shares_of(rungs: int) -> list[float]:
    """1/9, 1/3, 1 for three rungs."""
    return [float(KEPT) ** (place - rungs) for place in range(1, rungs + 1)]


def fit(left: float, opening: float, per_step: float, asked: int, runs: int) -> Fit:
    """The most runs, and with them the most steps, that a box has room for.

    Args:
        left: seconds.
        opening: seconds of a run beside its steps, each time it is taken up; its end takes as much again.
        per_step: seconds of a step.
        asked: steps that a run should have.
        runs: how many there are.
    """
    for tried in range(runs, 0, -1):
        fewest = min(runs, 2)
        for rungs in range(fewest, max(fewest, 1 + int(math.log(tried, KEPT) + 1e-9)) + 1):
            steps = _steps(SLACK * left, opening, per_step, tried, rungs)
            if steps >= asked:
                return Fit(asked, shares_of(rungs), tried)
        if steps >= min(asked, FEWEST_STEPS):
            return Fit(int(steps), shares_of(rungs), tried)
    return Fit(max(1, min(asked, FEWEST_STEPS)), shares_of(fewest), 1)


def _steps(left: float, opening: float, per_step: float, runs: int, rungs: int) -> float:
    fixed, moving, before = 0.0, 0.0, 0.0
    for place, share in enumerate(shares_of(rungs)):
        there = math.ceil(runs / KEPT**place)
        fixed += there * opening
        moving += there * (share - before) * per_step
        before = share
    return (left - fixed - there * opening) / max(moving, 1e-9)
