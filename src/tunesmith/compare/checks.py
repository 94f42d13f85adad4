"""What would make every run of a comparison fail is said once, before the first: rows, labels, device, model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tunesmith import config as configuration
from tunesmith import registry
from tunesmith.compare.models import models_of
from tunesmith.compare.planning import Planned
from tunesmith.compare.study import moves_rows
from tunesmith.config import CompareConfig, RunConfig, is_new
from tunesmith.errors import DataError, ModelError
from tunesmith.inputs import sha256_of_inputs
from tunesmith.stream import for_task


@dataclass
class Identity:
    """By what a run that is already there is recognised, beside its configuration.

    Attributes:
        data: hashes of the rows of each task by role; of a plain comparison those of its only task, named "".
        rows: training rows of each task.
        models: hash of each model that is not made from nothing.
        points: of the settings of a grid that change the rows.
        retained: hash of what must not be forgotten.
        inputs: hashes of what runs read beside rows and model, by what names it.
    """

    data: dict[str, dict[str, str]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    points: dict[str, Identity] = field(default_factory=dict)
    retained: str | None = None
    inputs: dict[str, dict[str, str]] = field(default_factory=dict)

    def of_planned(self, planned: Planned) -> dict[str, Any]:
        """What the provenance of a run must say, on the rows of its point of the grid."""
        point = planned.point
        if point is None or not any(map(moves_rows, point.values)):
            return self.of(planned.run, planned.task) | self._kept(planned) | self._inputs(planned)
        if point.setting not in self.points:
            try:
                self.points[point.setting] = refuse_early(point.config.model_copy(update={"doctor": False}))
            except DataError as error:
                raise DataError(f"with {point.setting}: {error}") from error
        return self.points[point.setting].of(planned.run, planned.task) | self._kept(planned) | self._inputs(planned)

    def _inputs(self, planned: Planned) -> dict[str, Any]:
        """Of the adapter that a run begins with, its teachers and further rows."""
        run = planned.run
        if planned.kind == "baseline":
            return {}
        key = repr((run.init_adapter, run.teacher, run.objective, run.strategy, run.options, run.stream))
        if key not in self.inputs:
            self.inputs[key] = sha256_of_inputs(run)
        return {"inputs_sha256": self.inputs[key]} if self.inputs[key] else {}

    def _kept(self, planned: Planned) -> dict[str, Any]:
        measures = planned.run.retain is not None and planned.kind != "baseline" and self.retained is not None
        return {"retain_sha256": self.retained} if measures else {}

    def of(self, run: RunConfig, task: str | None) -> dict[str, Any]:
        """What the provenance of a run must say.

        Args:
            run: its configuration.
            task: of a stream, where the run has that one alone.
        """
        found: dict[str, Any] = {"data_sha256": self.data if run.stream is not None else self.data[task or ""]}
        if run.model in self.models:  # a new one follows from configuration, rows and seed
            found["model_sha256"] = self.models[run.model]
        return found


def refuse_early(config: CompareConfig) -> Identity:
    """Say what cannot be used; of a stream, look at the rows of every stage.

    Raises:
        TunesmithError: what is wrong, in a sentence.
    """
    from tunesmith.data.splits import load_roles
    from tunesmith.doctor.examination import at_start
    from tunesmith.models.load import load_tokenizer, locate
    from tunesmith.training.precision import pick_device

    pick_device(config.device)
    found = Identity()
    for name, each in tasks_of(config).items():
        task = registry.load("task", each.task)(configuration.options_of(each, "task", each.task))
        roles = load_roles(each, task)
        task.fit(roles.train)
        for role, rows in roles.present():
            if role != "train":
                task.check(rows, role)
        at_start(each, task, roles)
        found.data[name], found.rows[name] = roles.sha256(), len(roles.train)
    if config.retain is not None:
        from tunesmith.retention import rows_of

        found.retained = rows_of(config).sha256
    for model in models_of(config):
        if not is_new(model):
            source = locate(model)
            load_tokenizer(source, trust_remote_code=config.trust_remote_code)
            found.models[model] = source.sha256
    refusals = [None if is_new(model) else refusal(config, locate(model).path) for model in models_of(config)]
    if refusals[0] is not None and None not in refusals:
        raise refusals[0]
    return found


def tasks_of(config: CompareConfig) -> dict[str, CompareConfig]:
    """Every task of the comparison as if it were all of it; the task of a plain one is named ""."""
    if config.stream is None:
        return {"": config}
    return {task.name: for_task(config, task) for stage in config.stream.stages for task in stage.tasks}


def refusal(config: CompareConfig, path: str) -> ModelError | None:
    """Why a task makes no sense on a model, if one does not: one of several that fit is a row that failed, all are a mistake."""
    import transformers

    try:
        shape = transformers.AutoConfig.from_pretrained(path, trust_remote_code=config.trust_remote_code)
    except Exception:  # a run says what is wrong with it
        return None
    for each in tasks_of(config).values():
        try:
            registry.load("task", each.task)(configuration.options_of(each, "task", each.task)).model_class(shape)
        except ModelError as error:
            return error
    return None
