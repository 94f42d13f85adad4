"""What a comparison's own predictions say beyond its means: ties with the best, whether metrics can be believed, where techniques disagree.

Everything is read back from the runs' `predictions.jsonl`, so it costs seconds and nothing is scored by a model again.
`bootstrap` has the equations of a tie, `self_tests` what is tested, `examples` which rows are shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tunesmith import config as configuration
from tunesmith import registry
from tunesmith.compare import bootstrap, examples, self_tests
from tunesmith.compare.statistics import PARTS, higher_is_better, primary_metric, sort_rows
from tunesmith.config import CompareConfig
from tunesmith.console import warn
from tunesmith.metrics.counts import Array, columns_of

Row = dict[str, Any]


@dataclass
class Scene:
    """The eval rows of a comparison and their task, as every run has them.

    Attributes:
        task: fitted to the training rows.
        table: the eval rows.
    """

    task: Any
    table: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, config: CompareConfig) -> Scene:
        """Read them again; the cache has them."""
        from tunesmith.data.splits import load_roles

        task = registry.load("task", config.task)(configuration.options_of(config, "task", config.task))
        roles = load_roles(config, task)
        task.fit(roles.train)
        return cls(task, roles.eval.table)

    @cached_property
    def truths(self) -> list[Any]:
        """The targets as the metric takes them."""
        return [self.task.truth(row) for row in self.table]


@dataclass
class Answers:
    """What a run said of every eval row.

    Attributes:
        run: its entry in results.json.
        lines: of its predictions file.
        columns: what each row adds to the metric, by name; empty of a run of an older version.
    """

    run: Mapping[str, Any]
    lines: list[dict[str, Any]]
    columns: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def read(cls, run: Mapping[str, Any], folder: Path, rows: int) -> Answers | None:
        """From a run's folder; None where they are missing or of other rows."""
        if run.get("status") != "finished" or run["kind"] not in ("technique", "baseline"):
            return None
        try:
            text = (folder / run["folder"] / "predictions.jsonl").read_text(encoding="utf-8")
            lines = [json.loads(line) for line in text.splitlines()]
        except (OSError, ValueError):
            return None
        if len(lines) != rows:
            return None
        counted = [line["counts"] for line in lines if "counts" in line]
        return cls(run, lines, columns_of(counted) if len(counted) == rows else {})


@dataclass
class Judged:
    """What was found.

    Attributes:
        rows: the aggregated rows, each with `against_best`.
        self_tests: of the metrics.
        examples: rows that techniques disagree on.
        best: the row that others are held against, and how; None where nothing can be judged.
    """

    rows: list[Row]
    self_tests: list[Row] = field(default_factory=list)
    examples: list[Row] = field(default_factory=list)
    best: Row | None = None

    def into(self, protocol: dict[str, Any]) -> dict[str, Any]:
        """The protocol with how it was judged."""
        return {**protocol, "judging": self.best, "self_tests": self.self_tests}


def judge(
    config: CompareConfig,
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    runs: Sequence[Mapping[str, Any]],
    protocol: Mapping[str, Any],
) -> Judged:
    """Judge the rows of a plain comparison; a stream, whose strategies are held against `none`, is left as it is.

    Args:
        config: of the comparison.
        folder: its own.
        rows: as `statistics.aggregate` made them.
        runs: all runs.
        protocol: names the primary metric.
    """
    if config.stream is not None:
        return Judged([dict(row) for row in rows])
    scene = Scene.of(config)
    read = (Answers.read(run, folder, len(scene.table)) for run in runs)
    answers = [each for each in read if each is not None]
    primary = primary_metric(protocol, runs)
    judged, best = against_best(rows, answers, scene, primary, higher_is_better(protocol, primary))
    tested = self_tests.carry_out(answers, scene, primary)
    for each in tested:
        if not each["passed"]:
            warn(
                f"A SELF-TEST OF THE METRICS FAILED, do not trust these numbers: {each['name']}: {each['what']}; expected {each['expected']}, "
                f"found {each['found']}."
            )
    return Judged(judged, tested, examples.choose(answers, scene, config.examples), best)


def against_best(
    rows: Sequence[Mapping[str, Any]], answers: Sequence[Answers], scene: Scene, primary: str, higher: bool
) -> tuple[list[Row], Row | None]:
    """Rows with `against_best`: difference to the best technique's row, its interval, p, and whether that is a tie; None of the best itself.

    Args:
        rows: aggregated.
        answers: of the runs.
        scene: the eval rows.
        primary: the metric.
        higher: whether more of it is better.
    """
    metric = scene.task.metric()
    scores: dict[tuple[Any, ...], dict[int, Array]] = {}
    tables = {
        (key_of(each.run), int(each.run["seed"])): each.columns
        for each in answers
        if each.columns and primary in (each.run["metrics"] or {}).get("after", {})
    }
    for (key, seed), drawn in bootstrap.scores_of(metric, tables, len(scene.table), primary).items():
        scores.setdefault(key, {})[seed] = drawn
    ranked = sort_rows(rows, higher)
    best = next((row for row in ranked if row["kind"] == "technique" and whole(row, scores)), None)
    found = []
    for row in ranked:
        result = None
        if best is not None and key_of(row) != key_of(best) and whole(row, scores):
            means = (row["primary"]["mean"], best["primary"]["mean"])
            result = asdict(bootstrap.compare(scores[key_of(row)], scores[key_of(best)], means))
        found.append({**row, "against_best": result})
    if best is None:
        return found, None
    about = {"best": best["technique"], "model": best["model"], "method": "paired bootstrap", "resamples": bootstrap.RESAMPLES,
             "rows": len(scene.table), "seeds": best["n"], "confidence": bootstrap.CONFIDENCE, "seed": bootstrap.SEED}  # fmt: skip
    return found, about


def key_of(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells rows, and the runs behind each, apart."""
    return entry["kind"], entry["technique"], entry.get("model"), *(entry.get(name) for name in PARTS)


def whole(row: Mapping[str, Any], scores: Mapping[Any, Mapping[int, Array]]) -> bool:
    """Whether every finished run of a row can be scored again."""
    return row["primary"] is not None and len(scores.get(key_of(row), ())) == row["n"]
