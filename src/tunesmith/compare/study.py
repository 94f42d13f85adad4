"""A study: the same run at every value of a setting, the curve over its values, and its knee.

    --grid lora.rank=1,2,4,8            runs/lora@1/<seed>/, runs/lora@2/<seed>/, ...
    --grid lora.rank=1,2 --grid max_train_rows=100,200       every pair: runs/lora@1,100/<seed>/, ...

A key that belongs to a technique (`lora.rank`) concerns the runs of that technique, any other key the runs of all; a technique that no key
concerns has its usual runs beside them.

The knee is the cheapest value whose mean lies within one standard error of the best mean: the one-standard-error rule (Breiman, Friedman,
Olshen & Stone 1984, "Classification and Regression Trees", section 3.4.3), with the variance pooled over values. Kneedle
(Satopaa et al. 2011) was not taken: it looks for the largest curvature of a smooth curve, so it finds a knee in noise, moves when values are added
at either end or the axis is read as logarithmic, and does not ask how far seeds scatter. With one seed there is no standard error and no knee.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith import config as configuration
from tunesmith import registry
from tunesmith.compare.models import models_of, techniques_of
from tunesmith.compare.statistics import is_number
from tunesmith.config import CompareConfig, RunConfig, default_technique
from tunesmith.errors import ConfigError, UserError

NOT_STUDIED = {
    *("model", "models", "task", "train", "validation", "eval", "columns", "max_eval_rows", "retain"),
    *("technique", "techniques", "strategy", "strategies", "stream", "alone", "baselines", "learning_rates", "continue_from", "init_adapter"),
    *("seed", "seeds", "output", "report_to", "device", "doctor", "trust_remote_code", "options", "teacher"),
}  # fmt: skip
"""What has flags of its own, must be the same for all, or does not change what is learned."""
CHEAPER_IF_LESS = {"max_train_rows", "epochs", "max_steps", "max_length"}
"""Settings of which a smaller value costs less although as many parameters learn."""
RULE = (
    "the cheapest value whose mean is within one standard error (over seeds) of the best (Breiman et al. 1984, 3.4.3)"
)


@dataclass(frozen=True)
class Point:
    """One setting of the grid.

    Attributes:
        values: what each key is.
        config: of the comparison with them.
    """

    values: Mapping[str, Any]
    config: CompareConfig

    @property
    def label(self) -> str:
        """What stands behind the technique's name: 8, or 8,100."""
        return ",".join(_word(value) for value in self.values.values())

    @property
    def setting(self) -> str:
        """The keys with their values: lora.rank=8."""
        return ", ".join(f"{key}={_word(value)}" for key, value in self.values.items())


def _word(value: Any) -> str:
    plain = str(value).lower() if isinstance(value, bool) else str(value)
    text = "+".join(map(str, value)) if isinstance(value, (list, tuple)) else plain
    return re.sub(r"[^\w.+-]+", "-", text)


def parse(words: Sequence[str]) -> dict[str, list[Any]]:
    """`lora.rank=1,2,4` of the command line as {"lora.rank": [1, 2, 4]}.

    Raises:
        UserError: a word is no key with values, or a key is there twice.
    """
    found: dict[str, list[Any]] = {}
    for word in words:
        key, equals, values = word.partition("=")
        try:
            listed = configuration.parse(f"[{values}]")
        except Exception:  # YAML raises several kinds
            listed = None
        if not equals or not key.strip() or not listed:
            raise UserError(f"--grid takes key=values, for example --grid lora.rank=1,2,4; got `{word}`.")
        if key.strip() in found:
            raise UserError(f"--grid {key.strip()} is given twice; list all of its values in one.")
        found[key.strip()] = listed
    return found


def owner_of(key: str) -> str | None:
    """The technique whose own setting a key is; None for a setting of every run."""
    owners = [entry for entry in registry.families_of(key.partition(".")[0]) if entry.kind == "technique"]
    return owners[0].name if owners else None


def concerned(config: CompareConfig, technique: str) -> list[str]:
    """The keys of the grid that a technique's runs differ in."""
    name = registry.resolve("technique", technique).name
    return [key for key in config.grid if owner_of(key) in (None, name)]


def techniques_of_grid(config: CompareConfig) -> list[str]:
    """The techniques that are studied when none are named: those that keys belong to, else the usual one."""
    owners = [owner for owner in map(owner_of, config.grid) if owner is not None]
    return list(dict.fromkeys(owners)) or [default_technique(models_of(config)[0])]


def points(config: CompareConfig, technique: str) -> list[Point]:
    """Every setting that a technique runs with, in the order of the grid; one without values where no key concerns it."""
    keys = concerned(config, technique)
    combinations = itertools.product(*(config.grid[key] for key in keys))
    return [_point(config, dict(zip(keys, values, strict=True))) for values in combinations]


def _point(config: CompareConfig, values: Mapping[str, Any]) -> Point:
    if not values:
        return Point({}, config)
    raw = configuration.parse(configuration.dump(config.model_copy(update={"grid": {}})))
    for key in values:  # the other way of saying the same steps aside
        for one, other in (("max_steps", "epochs"), ("epochs", "max_steps"), ("learning_rate", "learning_rates")):
            if key == one:
                raw.pop(other, None)
    nested: list[dict[str, Any]] = []
    for key, value in values.items():
        content: Any = value
        for part in reversed(key.split(".")):
            content = {part: content}
        nested.append(content)
    return Point(values, configuration.build(CompareConfig, configuration.merge(raw, *nested)))


def check(config: CompareConfig) -> None:
    """Refuse a grid that cannot be run, every mistake at once.

    Raises:
        ConfigError: a key cannot be studied, a value is not allowed, or no technique has the key.
    """
    if not config.grid:
        return
    if config.stream is not None:
        raise ConfigError([("grid", "studies plain runs; leave the stream or the grid out.")])
    problems: list[tuple[str, str]] = []
    every = dict.fromkeys(name for each in models_of(config) for name in techniques_of(config, each))
    techniques = [registry.resolve("technique", name).name for name in every]
    read = {
        ("task", registry.resolve("task", config.task).name),
        ("objective", registry.resolve("objective", config.objective).name),
    }
    if config.search != "none" and "learning_rate" in config.grid:
        problems.append(("search", "looks for what the grid studies; leave one of them out."))
    for key, values in config.grid.items():
        path, root, owner = f"grid.{key}", key.partition(".")[0].replace("-", "_"), owner_of(key)
        words = [_word(value) for value in values]
        if root in NOT_STUDIED or (root in CompareConfig.model_fields and root not in RunConfig.model_fields):
            problems.append((path, "cannot be studied: it has to be the same in every run, or has a flag of its own."))
        elif owner is not None and owner not in techniques:
            problems.append((path, f"is a setting of {owner}, which is not compared; add it to techniques."))
        elif owner is None and (there := registry.families_of(root)) and not read & {(e.kind, e.name) for e in there}:
            problems.append((path, "changes nothing here: no run of a technique reads it."))
        elif None in values:
            problems.append((path, "takes no null; write what it stands for, of max_train_rows the number of rows."))
        elif len(words) < 2 or len(set(words)) < len(words):
            problems.append((path, f"needs at least two values, each of them once; got {', '.join(words) or 'none'}."))
        for value in values if not any(found[0] == path for found in problems) else ():
            try:
                _point(config, {key: value})
            except ConfigError as error:
                problems += [(path, f"{where}: {message}") for where, message in error.problems]
    if {"epochs", "max_steps"} <= set(config.grid):
        problems.append(("grid", "has epochs and max_steps, which are two ways to say the same; keep one."))
    if problems:
        raise ConfigError(problems)


def studies(config: CompareConfig, rows: Sequence[Mapping[str, Any]], higher: bool) -> list[dict[str, Any]]:
    """The curve of every key of the grid, for every technique (and model, and setting of the other keys).

    Args:
        config: of the comparison.
        rows: of results.json; those of the grid carry `setting`.
        higher: whether more of the primary metric is better.
    """
    by_place = {(row["technique"], row["model"], row.get("setting")): row for row in rows}
    found = []
    for model, technique in ((each, name) for each in models_of(config) for name in techniques_of(config, each)):
        every = points(config, technique)
        for key in concerned(config, technique):
            others: dict[str, list[Point]] = {}
            for point in every:
                rest = {name: value for name, value in point.values.items() if name != key}
                others.setdefault(str(rest), []).append(point)
            for members in others.values():
                pairs = [(each, by_place.get((technique, model, each.setting))) for each in members]
                entries = [point_of(each.values[key], row) for each, row in pairs if row is not None]
                if entries:
                    fixed = {name: value for name, value in members[0].values.items() if name != key}
                    found.append(study(key, technique, model, fixed, entries, higher))
    return found


def point_of(value: Any, row: Mapping[str, Any]) -> dict[str, Any]:
    """A value with what its row measured."""
    summary = row["primary"] or {}
    return {
        "value": value,
        **{name: summary.get(name) for name in ("mean", "low", "high", "std")},
        "n": row["n"],
        **{name: row[name] for name in ("trainable_parameters", "train_seconds", "peak_memory_bytes", "status")},
    }


def study(
    key: str, technique: str, model: str, fixed: Mapping[str, Any], entries: Sequence[dict[str, Any]], higher: bool
) -> dict[str, Any]:
    """A curve with its knee, its values in rising order where they are numbers."""
    numeric = all(is_number(each["value"]) for each in entries)
    ordered = sorted(entries, key=lambda each: each["value"]) if numeric else list(entries)
    best, error, at, why = knee(key, ordered, higher)
    return {
        "key": key, "technique": technique, "model": model, "fixed": dict(fixed), "points": ordered,
        "knee": at, "best": best, "standard_error": error, "rule": RULE, "why_no_knee": why,
    }  # fmt: skip


def knee(
    key: str, entries: Sequence[Mapping[str, Any]], higher: bool
) -> tuple[Any | None, float | None, Any | None, str | None]:
    """(best value, standard error of its mean, knee, why there is none) by the one-standard-error rule.

    The error is s / sqrt(n) with s^2 the mean of the variances of all values, each over its seeds: of the best value alone three seeds tell so little that
    a lucky agreement between them would rule out everything else.

    Args:
        key: of the grid.
        entries: points of a study.
        higher: whether more is better.
    """
    scored = [each for each in entries if each["mean"] is not None]
    if not scored:
        return None, None, None, "no run finished"
    sign = 1.0 if higher else -1.0
    best = max(scored, key=lambda each: sign * each["mean"])
    if best["std"] is None:
        return (
            best["value"],
            None,
            None,
            "the best value has one finished seed, which has no standard error; it needs at least three",
        )
    variances = [each["std"] ** 2 for each in scored if each["std"] is not None]
    error = math.sqrt(sum(variances) / len(variances)) / math.sqrt(best["n"])
    by_parameters = len({each["trainable_parameters"] for each in scored}) > 1
    if not by_parameters and key not in CHEAPER_IF_LESS:
        return best["value"], error, None, "no value costs less than another"
    near = [each for each in scored if sign * (best["mean"] - each["mean"]) <= error]
    cheapest = min(near, key=lambda each: each["trainable_parameters"] if by_parameters else each["value"])
    return best["value"], error, cheapest["value"], None


def moves_rows(key: str) -> bool:
    """Whether a setting may change which rows are learned from, by which a run that is already there is recognised."""
    root = key.partition(".")[0].replace("-", "_")
    return root in ("max_train_rows", "training") or any(e.kind == "task" for e in registry.families_of(root))
