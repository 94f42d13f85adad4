"""Before a stage: its tasks' rows in their roles, the heads they are read through, everything encoded.

A stage starts from the artifact that the one before left, so that resuming a stream, adding a stage to a finished run and going
through a list are the same thing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tunesmith import config as configuration
from tunesmith.config import RunConfig
from tunesmith.data.task_inference import TaskInference
from tunesmith.errors import DataError, UserError
from tunesmith.stream import Stage, StageTask, for_task


@dataclass
class Part:
    """One task of a stage, ready.

    Attributes:
        name: of the task in the stream.
        spec: what the stream says of it.
        head: which model reads its rows.
        reading: its task and cut.
        roles: its rows.
        encoded: their features by role.
        stage: name of the stage it belongs to.
        encoded_for: what the features were made for: a head that grew wants others.
    """

    name: str
    spec: StageTask
    head: str
    reading: Any
    roles: Any
    encoded: dict[str, Any] = field(default_factory=dict)
    stage: str = ""
    encoded_for: str = ""

    @property
    def task(self) -> Any:
        """What the rows are for."""
        return self.reading.task

    @property
    def max_length(self) -> int:
        """Tokens that a row is cut to."""
        return int(self.reading.max_length)


@dataclass
class Model:
    """The model of a run between stages: heads on one backbone, what reads through each, the technique once it is attached.

    `roles` are the rows of tasks that were read already, by name: the same for every model of a run. `start` is the adapter that training
    begins with, if one is given (`artifacts.begin`), and `head_came` whether it brought its head.
    """

    config: RunConfig
    folder: Path
    device: Any
    technique: Any
    source: Any = None
    heads: Any = None
    readings: dict[str, Any] = field(default_factory=dict)
    attached: bool = False
    roles: dict[str, Any] = field(default_factory=dict)
    inference: TaskInference | None = None
    start: Any = None
    head_came: bool = False

    def fresh_heads(self, known: Collection[str]) -> frozenset[str]:
        """Parameters of heads that begin at random: brought by no checkpoint, adapter or stage before.

        Args:
            known: what was there before the stage.
        """
        if self.technique.cache_boundary == "base" or configuration.is_new(self.config.model):
            return frozenset()  # below the head nothing learns that it could bend, or everything begins at random
        came = {name for name, _ in self.heads.backbone.head_parameters()} if self.head_came else set()
        return frozenset(set().union(*map(self.heads.fresh, self.heads.loaded)) - came - set(known))

    def rows_of(self, spec: StageTask, config: RunConfig, task: Any) -> Any:
        """A task's rows in their roles, read once."""
        from tunesmith.data.splits import load_roles

        if spec.name not in self.roles:
            self.roles[spec.name] = load_roles(config, task)
        return self.roles[spec.name]

    @cached_property
    def objective(self) -> Any:
        """What is minimised."""
        from tunesmith import registry

        name = self.config.objective
        return registry.load("objective", name)(configuration.options_of(self.config, "objective", name))

    @property
    def pad_id(self) -> int:
        """Token id of padding."""
        return int(self.heads.first.tokenizer.pad_token_id)

    def measure(self, part: Part, role: str, title: str, around: AbstractContextManager[Any] | None = None) -> Any:
        """Metrics and answers on the rows of a role, with the model as it stands; `around` is entered for the first batch."""
        from tunesmith.evaluation.evaluate import evaluate

        return evaluate(
            self.heads[part.head].model, part.task, part.roles[role].table, part.encoded[role], batch_size=self.config.eval_batch_size,
            device=self.device, pad_id=self.pad_id, title=title, around=around,
        )  # fmt: skip


def open_model(config: RunConfig, folder: Path) -> Model:
    """A run's model before its first stage: nothing is loaded yet, because the first task decides on the class."""
    from tunesmith import registry
    from tunesmith.artifacts.begin import begun
    from tunesmith.techniques._base import create
    from tunesmith.training.precision import pick_device

    if config.init_adapter is not None:
        technique, start = begun(config)
        return Model(config, folder, pick_device(config.device), technique, start=start)
    technique = create(config.technique, config.options.get(registry.resolve("technique", config.technique).name))
    return Model(config, folder, pick_device(config.device), technique)


def reopen(config: RunConfig, folder: Path, artifact: Path) -> Model:
    """The model as an artifact left it."""
    from tunesmith.artifacts.store import open_artifact
    from tunesmith.training.precision import pick_device

    opened = open_artifact(artifact, dropout=config.training.dropout)
    device = pick_device(config.device)
    opened.heads.to(device)
    return Model(
        config, folder, device, opened.technique, opened.loaded.source, opened.heads, opened.readings, attached=True,
        inference=opened.inference,
    )  # fmt: skip


# ---- rows and heads


def prepare(model: Model, stage: Stage, earlier: Mapping[str, Part]) -> dict[str, Part]:
    """Rows in their roles, tasks fitted to them, a head for each, everything encoded.

    Args:
        model: loaded with the first task's head, if it is not loaded yet.
        stage: its tasks.
        earlier: the tasks of the stages before, with their heads.

    Raises:
        DataError: rows that cannot be used.
    """
    parts = {spec.name: _part(model, spec, earlier) for spec in stage.tasks}
    for part in parts.values():
        part.stage = stage.name
        for role, rows in part.roles.present():
            if role != "train":
                part.task.check(rows, role)
    for part in parts.values():
        _head(model, part)
    for part in parts.values():
        encode_part(model, part)
    return parts


def _part(model: Model, spec: StageTask, earlier: Mapping[str, Part]) -> Part:
    """A task's rows, and the head they are to be read through: an earlier one, that one extended, or a new one."""
    from tunesmith import registry
    from tunesmith.artifacts.store import Reading

    config = for_task(model.config, spec)
    task = registry.load("task", spec.task)(configuration.options_of(config, "task", spec.task))
    roles = model.rows_of(spec, config, task)
    for name, reading in reversed(list(model.readings.items())) if spec.head != "own" else ():
        known = reading.task
        if known.name != task.name or known.options != task.options:
            continue
        if spec.head == "extend":
            known.extend(roles.train)
        elif task.owns_head or task.learns_labels:
            try:
                known.check(roles.train, "train")
            except DataError:
                if spec.head == "shared":
                    raise
                continue
        return Part(spec.name, spec, name, reading, roles)
    if spec.head in ("shared", "extend"):
        raise UserError(
            f"the stage `{spec.name}` wants the head of an earlier {spec.task} task, and there is none; use head: own."
        )
    task.fit(roles.train)
    reading = Reading(task, 0)
    model.readings[spec.name] = reading
    return Part(spec.name, spec, spec.name, reading, roles)


def _head(model: Model, part: Part) -> None:
    """Load the model if nothing is loaded, put a new head on it, or let the head grow with its labels."""
    from tunesmith import seeding
    from tunesmith.artifacts import use
    from tunesmith.models import new
    from tunesmith.models.heads import Heads
    from tunesmith.models.load import load_model, load_tokenizer, pick_max_length, positions

    config, task = model.config, part.task

    def load() -> Any:
        loaded = load_model(
            model.source, tokenizer, task, seed=config.seed, trust_remote_code=config.trust_remote_code,
            quantization=quantization_of(config, model.technique), dropout=config.training.dropout,
        )  # fmt: skip
        loaded.model.to(model.device)
        return loaded

    if model.heads is None:
        seeding.seed_everything(config.seed)
        made = model.objective.student(config, task, model.folder, use.load)
        model.source = made or new.source_of(config, task, part.roles.train, model.folder)
        tokenizer = load_tokenizer(model.source, trust_remote_code=config.trust_remote_code)
        model.heads = Heads(part.head, load())
    tokenizer = model.heads.first.tokenizer
    if part.head not in model.heads:
        added = model.heads.place(part.head, task, load)
        if model.attached and added is not None:
            model.technique.join(added.backbone)
    model.heads.grow(part.head, task, load)
    loaded = model.heads[part.head]
    taken = model.technique.extra_positions(loaded.backbone)
    task.positions = positions(loaded, taken)
    part.reading.max_length = pick_max_length(config.max_length, task.default_max_length, loaded, taken)


def encode_part(
    model: Model, part: Part, roles: Sequence[str] = ("train", "validation", "eval"), *, look: bool = True
) -> None:
    """Encode the rows of some roles, and let the doctor look at them. What is encoded already for this head stays."""
    from tunesmith.cache.store import key_of
    from tunesmith.data.encode import encode, refuse_nothing
    from tunesmith.doctor.examination import at_start

    tokenizer = model.heads.first.tokenizer
    made_for = key_of(state=part.task.state_dict(), bound=part.task.encoding_key(), max_length=part.max_length)
    if part.encoded_for != made_for:
        part.encoded, part.encoded_for = {}, made_for
    for role, rows in part.roles.present():
        if role in roles and role not in part.encoded:
            part.encoded[role] = encode(part.task, rows, tokenizer, part.max_length, title=f"tokenise {role}")
            refuse_nothing(part.encoded[role], rows, part.max_length)
    if look and "train" in roles:
        at_start(
            for_task(model.config, part.spec), part.task, part.roles, part.encoded, model.heads[part.head], part.max_length, model.technique
        )  # fmt: skip


def readable(model: Model, spec: StageTask) -> Part | None:
    """A later stage's task, where a head that is there already can read it: it is measured before its turn."""
    from tunesmith import registry

    config = for_task(model.config, spec)
    task = registry.load("task", spec.task)(configuration.options_of(config, "task", spec.task))
    for name, reading in reversed(list(model.readings.items())) if spec.head in ("auto", "shared") else ():
        known = reading.task
        if known.name != task.name or known.options != task.options:
            continue
        roles = model.rows_of(spec, config, task)
        try:
            for role, rows in roles.present():
                known.check(rows, role)
        except DataError:
            continue
        part = Part(spec.name, spec, name, reading, roles)
        encode_part(model, part, ("eval",), look=False)
        return part
    return None


def say_what_is_odd(config: RunConfig, parts: Mapping[str, Part], technique: Any) -> None:
    """Say which rows were held out, where the user named none, and what random weights mean."""
    from tunesmith.console import say, warn

    if configuration.is_new(config.model) and technique.name != "full":
        warn(
            f"{config.model} starts from random weights, and {technique.name} trains only a part of it; use --technique full, "
            "the default for new models."
        )
    elif configuration.is_new(config.model):
        say(f"{config.model} starts from random weights, so everything learns (technique full).")
    for part in parts.values():
        if "by content hash" in part.roles.origins["eval"]:
            say(
                f"No --eval given: {len(part.roles.eval):,} rows ({part.roles.origins['eval']}) are only measured, not trained on."
            )


def quantization_of(config: RunConfig, technique: Any) -> str:
    """How the backbone is stored: what the user says, or else what the technique stands for."""
    wanted = str(technique.load_options().get("quantization", "none"))
    return wanted if config.quantization == "none" else config.quantization
