"""What the finished stages of a run amount to: the scores, costs and hashes of result.json.

`metrics.transfer` has the equations of a stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.config import RunConfig
from tunesmith.metrics.transfer import transfer
from tunesmith.plan.prediction import several
from tunesmith.preparation import Part
from tunesmith.stage import MEAN, score, together
from tunesmith.stream import Stage


def is_plain(config: RunConfig) -> bool:
    """Whether a run has one stage with one task, and nothing before."""
    return config.stream is None and config.continue_from is None


@dataclass(frozen=True)
class Outcome:
    """Numbers of a run.

    Attributes:
        config: the run's.
        columns: its stages as they were written, those of a run that it continues included.
        done: what was measured after each (the content of their scores.json).
        parts: their tasks.
        model_sha256: of the pretrained model.
    """

    config: RunConfig
    columns: Sequence[Stage]
    done: Sequence[Mapping[str, Any]]
    parts: Mapping[str, Part]
    model_sha256: str

    @property
    def own(self) -> list[Mapping[str, Any]]:
        """The stages that this run learned itself."""
        return [entry for entry in self.done if not entry.get("inherited")]

    @property
    def task(self) -> str:
        """The run's task; several names joined."""
        return "+".join(dict.fromkeys(spec.task for stage in self.columns for spec in stage.tasks))

    @property
    def technique(self) -> str:
        """The technique's registry name."""
        return str(self.config.technique)

    def metrics(self) -> dict[str, Any]:
        """Before and after, for result.json."""
        last = self.done[-1]
        if is_plain(self.config):
            (name,) = self.parts
            return {
                "before": last["before"][name],
                "after": last["after"][name],
                "primary": self.parts[name].task.primary,
            }
        first = {
            name: metrics for entry in self.done for name, metrics in {**entry["untouched"], **entry["before"]}.items()
        }
        after = {name: last["after"][name] for name in self.parts}
        shared = {name: first[name] for name in self.parts if name in first}
        return {"before": _together(shared, self.parts), "after": _together(after, self.parts), "primary": MEAN}

    def cost(self) -> dict[str, Any]:
        """Of all stages of this run together."""
        costs = [entry["cost"] for entry in self.own]
        seconds = sum(each["train_seconds"] for each in costs)
        tokens = sum(each["tokens_per_second"] * max(each["train_seconds"], 1e-9) for each in costs)
        return {
            **{name: max(each[name] for each in costs) for name in ("trainable_parameters", "total_parameters")},
            "train_seconds": seconds,
            "tokens_per_second": tokens / max(seconds, 1e-9),
        }

    def plan(self) -> dict[str, Any] | None:
        """What was predicted of all stages of this run; None where one was not."""
        plans = [entry.get("plan") for entry in self.own]
        made = [plan for plan in plans if plan is not None]
        return several(made) if made and len(made) == len(plans) else None

    def predicted(self) -> dict[str, Any]:
        """The entries of `cost` that say so."""
        plan = self.plan() or {}
        return {f"predicted_{name}": plan.get(name) for name in ("memory_bytes", "seconds")}

    def training(self) -> dict[str, Any]:
        """Of the last stage; steps and tokens of all."""
        notes = [entry["training"] for entry in self.own]
        seen = [
            each if is_plain(self.config) else {"stage": entry["stage"], **each}
            for entry in self.own
            for each in entry["training"].get("warnings", [])
        ]
        sums = {name: sum(int(each[name]) for each in notes) for name in ("steps", "tokens")}
        return {**notes[-1], **sums, "warnings": seen}

    def forgetting(self) -> dict[str, Any] | None:
        """Of what was to be retained; of a stream also after every stage of this run."""
        kept = {entry["stage"]: dict(entry["forgetting"]) for entry in self.own if entry.get("forgetting")}
        if not kept:
            return None
        last = list(kept.values())[-1]
        if is_plain(self.config):
            return last
        return {**last, "change_after": {stage: found["change"] for stage, found in kept.items()}}

    def objective(self) -> dict[str, Any]:
        """What the objective says of the run, under its name: of the only task, or of each by its name."""
        notes = {name: found for entry in self.done for name, found in entry.get("objective", {}).items()}
        if not notes:
            return {}
        return {self.config.objective: next(iter(notes.values())) if is_plain(self.config) else notes}

    def provenance(self) -> dict[str, Any]:
        """Rows and hashes."""
        if is_plain(self.config):
            (part,) = self.parts.values()
            rows, hashes = part.roles.describe(), part.roles.sha256()
        else:
            rows = {name: part.roles.describe() for name, part in self.parts.items()}
            hashes = {name: part.roles.sha256() for name, part in self.parts.items()}
        return {"rows": rows, "data_sha256": hashes, "model_sha256": self.model_sha256}

    def stream(self) -> dict[str, Any] | None:
        """The matrix and what follows from it; None for a plain run."""
        if is_plain(self.config):
            return None
        matrix = [[self._column(entry["after"], column) for column in self.columns] for entry in self.done]
        first = self.done[0]
        kept = [entry["strategy"] for entry in self.done if entry.get("strategy")]
        untouched = [self._column({**first["before"], **first["untouched"]}, column) for column in self.columns]
        signs = [-1.0 if self._falls(column) == {True} else 1.0 for column in self.columns]
        return {
            "stages": [column.name for column in self.columns],
            **transfer(matrix, untouched, signs),
            "untouched": untouched,
            "higher_is_better": [sign > 0 for sign in signs],
            "tasks": {
                task.name: {
                    "stage": column.name,
                    "primary": self.parts[task.name].task.primary,
                    "higher_is_better": self.parts[task.name].task.higher_is_better,
                }
                for column in self.columns
                for task in column.tasks
            },
            "task_found": self.done[-1].get("task_found", {}),
            "strategy": self.config.strategy,
            "strategy_parameters": max((each["parameters"] for each in kept), default=0),
            "strategy_bytes": {
                "memory": max((each["memory"] for each in kept), default=0),
                "disk": kept[-1]["disk"] if kept else 0,
            },
        }

    def _falls(self, column: Stage) -> set[bool]:
        """Whether lower is better, for the tasks of a stage."""
        return {not self.parts[t.name].task.higher_is_better for t in column.tasks if t.name in self.parts}

    def _column(self, found: Mapping[str, Mapping[str, float]], column: Stage) -> float | None:
        """The primary metric on a stage, the mean over its tasks; None if one was not measured.

        Where a lower one is better of some tasks alone, those count with a minus.
        """
        mixed = len(self._falls(column)) > 1
        values = [
            score(self.parts[t.name].task, found[t.name]) if mixed else found[t.name][self.parts[t.name].task.primary]
            for t in column.tasks
            if t.name in found and t.name in self.parts
        ]
        return sum(values) / len(values) if len(values) == len(column.tasks) else None


def _together(found: Mapping[str, Mapping[str, float]], parts: Mapping[str, Part]) -> dict[str, float]:
    if len(found) != 1:
        return together(found, parts)
    ((name, metrics),) = found.items()
    return {
        MEAN: score(parts[name].task, metrics),
        **{f"{name}/{k}": v for k, v in metrics.items()},
        "loss": metrics["loss"],
    }
