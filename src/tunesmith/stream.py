"""A stream: stages that one model learns in order. A plain run is a stream of one stage with one task.

    stages:
      - {name: films, task: text-classification, train: films.csv, eval: films-test.csv}
      - {name: posts, task: text-classification, train: posts.csv, eval: posts-test.csv}
      - name: both
        mixing: temperature
        tasks:
          - {name: spam, task: text-classification, train: spam.csv, weight: 0.5}
          - {name: entities, task: token-classification, train: tweets.jsonl}
      - name: words                       # `form: text`: one head, the language model's own output layer
        form: text
        tasks:
          - {name: opinion, train: films.csv, instruction: "Is the opinion of this film good or bad?"}
          - {name: people, task: token-classification, train: tweets.jsonl}

Each task of a stage reads through a *head*: the one of an earlier stage (`shared`), that one with more labels (`extend`), or its
own (`own`). `auto` shares where the task is the same and every label is known, and else adds one.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import Any, Literal, Protocol, TypeVar

from pydantic import Field, field_validator, model_validator

from tunesmith import registry
from tunesmith.errors import ConfigError
from tunesmith.options import Options

TEXT = "text-to-text"


class StageTask(Options):
    """One task of a stage: its rows, and the head they are read through."""

    name: str = Field("", description="what results call it (default: the stage's name, or the task's)")
    task: str = Field("text-classification", description="what the rows are for")
    train: str = Field(description="training rows")
    validation: str | None = Field(None, description="rows that choices are made on")
    eval: str | None = Field(None, description="rows that are only measured (default: 10 % of train)")
    columns: dict[str, str] = Field(default_factory=dict, description="the task's column = your column")
    head: Literal["auto", "shared", "extend", "own"] = Field("auto", description="which head reads them")
    weight: float = Field(1.0, gt=0, description="factor of this task's loss")
    max_train_rows: int | None = Field(None, ge=1, description="of this task, instead of the run's")
    max_eval_rows: int | None = Field(None, ge=1, description="of this task, instead of the run's")
    teacher: list[str] | None = Field(
        None, description="of distillation: this task's teachers, instead of the run's (none: [])"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="the task's own options, for this stage")
    form: Literal["head", "text"] | None = Field(
        None, description="text: the task in words, through the model's own output layer (task text-to-text)"
    )
    instruction: str | None = Field(None, description="with form: text, what stands before every row")

    @model_validator(mode="before")
    @classmethod
    def _in_words(cls, raw: Any) -> Any:
        """`form: text` is the task text-to-text around the task."""
        if not isinstance(raw, dict) or (raw.get("form") != "text" and not raw.get("instruction")):
            return raw
        task = str(raw.get("task", cls.model_fields["task"].default))
        if raw.get("form") == "head":
            raise ValueError("instruction is for form: text, where a task is put in words; leave it out")
        rest = {k: v for k, v in raw.items() if k not in ("form", "instruction")}
        own = dict(raw.get("options") or {})
        ours = {k: own.pop(k) for k in ("words", "generate_rows", "max_new_tokens", "template") if k in own}
        if task == TEXT:
            return {**rest, "options": {**own, **ours, "instruction": raw.get("instruction")}}
        return {
            **rest,
            "task": TEXT,
            "options": {"task": task, "options": own, "instruction": raw.get("instruction"), **ours},
        }

    @field_validator("teacher", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """One teacher may be named without a list."""
        return [value] if isinstance(value, str) else value


class Stage(Options):
    """One step of training, with one task or several at once."""

    name: str = Field("", description="what results call it")
    tasks: list[StageTask] = Field(min_length=1)
    mixing: Literal["proportional", "equal", "temperature"] = Field(
        "temperature",  # 100 rows beside 10,000 keep less than 90 % of their score by their rows alone (benchmarks/multitask.py)
        description="how often a row of each task is drawn: by its rows n, all alike, or by n^(1/temperature)",
    )
    temperature: float = Field(2.0, ge=1, description="of mixing: 1 is proportional, large values come near equal")
    weighting: Literal["fixed", "uncertainty", "pcgrad"] = Field(
        "fixed",
        description="how the tasks' losses become one step: by their weights, learned, or conflicting gradients projected",
    )
    epochs: float | None = Field(None, gt=0, description="of this stage, instead of the run's")
    max_steps: int | None = Field(None, ge=1, description="of this stage, instead of epochs")
    learning_rate: float | None = Field(None, gt=0, description="of this stage, instead of the run's")

    @model_validator(mode="before")
    @classmethod
    def _one_task(cls, raw: Any) -> Any:
        """A stage with one task may write it without `tasks`."""
        if isinstance(raw, dict) and "tasks" not in raw:
            own = {k: v for k, v in raw.items() if k in StageTask.model_fields and k != "name"}
            rest = {k: v for k, v in raw.items() if k not in own}
            return {**rest, "tasks": [{**own, "name": str(raw.get("name") or "")}]}
        if isinstance(raw, dict) and "form" in raw:  # of all its tasks
            rest = {k: v for k, v in raw.items() if k != "form"}
            return {**rest, "tasks": [{"form": raw["form"], **task} for task in raw["tasks"]]}
        return raw

    def shares(self, rows: Mapping[str, int]) -> dict[str, float]:
        """How much of every step each task gets, in sum 1: n, 1 or n^(1/T) of its rows n (Raffel et al. 2020, section 3.5.2).

        Args:
            rows: training rows by task; those of other stages do not count.
        """
        power = {"proportional": 1.0, "equal": 0.0, "temperature": 1.0 / self.temperature}[self.mixing]
        found = {task.name: float(rows[task.name]) ** power for task in self.tasks}
        return {name: share / sum(found.values()) for name, share in found.items()}


class StreamOptions(Options):
    """Stages in their order."""

    stages: list[Stage] = Field(min_length=1)

    @field_validator("stages")
    @classmethod
    def _named(cls, stages: list[Stage]) -> list[Stage]:
        """Every stage and every task of a stage gets a name, and none twice."""
        for number, stage in enumerate(stages, 1):
            for task in stage.tasks:
                task.__dict__["name"] = (
                    task.name or (stage.name if len(stage.tasks) == 1 else "") or f"{task.task}-{number}"
                )
            stage.__dict__["name"] = stage.name or "+".join(task.name for task in stage.tasks)
        names = [task.name for stage in stages for task in stage.tasks]
        for found in (names, [stage.name for stage in stages]):
            twice = next((n for i, n in enumerate(found) if n in found[:i]), None)
            if twice:
                raise ValueError(f"`{twice}` is named twice; give every stage, and every task, a name of its own")
        return stages


class Run(Protocol):
    """What is needed of a run's configuration (`config.RunConfig`)."""

    task: str
    train: str | None
    validation: str | None
    eval: str | None
    columns: dict[str, str]
    options: dict[str, dict[str, Any]]
    max_train_rows: int | None
    max_eval_rows: int | None
    stream: StreamOptions | None

    def model_copy(self, *, update: Any) -> Any:
        """A copy with some values changed."""


C = TypeVar("C", bound=Run)


def for_task(config: C, spec: StageTask) -> C:
    """A run's configuration as if one task of its stream were all of it."""
    name = registry.resolve("task", spec.task).name
    options = {**config.options, name: {**config.options.get(name, {}), **spec.options}}
    copy: C = config.model_copy(
        update={
            "task": spec.task, "train": spec.train, "validation": spec.validation, "eval": spec.eval, "columns": spec.columns,
            "options": options, "stream": None,
            "max_train_rows": spec.max_train_rows or config.max_train_rows,
            "max_eval_rows": spec.max_eval_rows or config.max_eval_rows,
        }
    )  # fmt: skip
    return copy


def stages_of(config: Run, taken: Collection[str] = ()) -> list[Stage]:
    """The stages of a run: those of its stream, or the one that its own settings make.

    Args:
        config: the run's.
        taken: names of tasks before these; a plain run's task, which nobody named, steps aside (`text-classification-2`).
    """
    if config.stream is not None:
        return list(config.stream.stages)
    if not config.train:
        raise ConfigError([("train", "is required: a file, a hub id (name:split) or asset:NAME.")])
    numbered = (config.task if n == 1 else f"{config.task}-{n}" for n in itertools.count(1))
    name = next(name for name in numbered if name not in taken)
    own = {
        "name": name, "task": config.task, "train": config.train, "validation": config.validation, "eval": config.eval,
        "columns": config.columns,
    }  # fmt: skip
    return [Stage.model_validate({"name": name, "tasks": [own]})]


def file_name(name: str) -> str:
    """A stage's name as part of a file name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:60]
