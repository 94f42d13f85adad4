"""One resolved configuration: the file, then `--set`, then flags; every mistake reported at once.

Keys are written with underscores or dashes alike. A top-level key that names a registered task, technique,
objective, strategy or baseline (`lora:`, `text-classification:`) holds that thing's own options, checked
against its `Options` class. Unknown keys are refused with the nearest known name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator

from tunesmith import registry
from tunesmith.errors import ConfigError, shown, unknown
from tunesmith.options import NewModelOptions as NewModelOptions
from tunesmith.options import Options as Options  # every option set imports it from here
from tunesmith.options import RetainOptions, SpreadOptions
from tunesmith.options import TrainingOptions as TrainingOptions
from tunesmith.settings import Dumper
from tunesmith.settings import assignments as assignments
from tunesmith.settings import merge as merge
from tunesmith.settings import parse as parse
from tunesmith.settings import parse_assignment as parse_assignment
from tunesmith.settings import read_file as read_file
from tunesmith.stream import StreamOptions

Dtype = Literal["auto", "float32", "bfloat16"]  # float16 would need loss scaling, and bfloat16 needs none
NEW = "new:"  # models that start from random weights
NEW_MODELS = ("rnn", "lstm", "gru")


class RunConfig(Options):
    """Everything one run depends on."""

    model: str = Field(description="folder, GGUF file, hub id, asset:NAME, or new:rnn, new:lstm, new:gru")
    task: str = Field("text-classification", description="what the rows are for; see `tunesmith list tasks`")
    train: str | None = Field(None, description="training rows: a file, a hub id (name:split) or asset:NAME")
    validation: str | None = Field(None, description="rows that choices are made on")
    eval: str | None = Field(None, description="rows that are only ever measured")
    columns: dict[str, str] = Field(default_factory=dict, description="the task's column = your column")
    technique: str = Field(
        "lora", description="which parameters learn; see `tunesmith list techniques` (new models: full)"
    )
    quantization: Literal["none", "nf4", "int8"] = Field("none", description="precision that the backbone is stored in")
    objective: str = Field("supervised", description="what is minimised; see `tunesmith list objectives`")
    teacher: list[str] = Field(
        default_factory=list, description="of distillation: artifacts, model folders, hub ids or asset:NAME"
    )
    stream: StreamOptions | None = Field(
        None, description="stages to learn one after the other, instead of task and train"
    )
    strategy: str = Field("none", description="how earlier stages are kept")
    continue_from: str | None = Field(None, description="a finished run whose stages come before these")
    init_adapter: str | None = Field(
        None,
        description="an artifact or peft folder whose adapter is trained further (its head too, if it answers the same)",
    )
    retain: RetainOptions | None = Field(
        None, description="what must not be forgotten, measured before and after: a text, a data set, or default"
    )
    seed: int = Field(0, ge=0, lt=2**63)
    epochs: float | None = Field(None, gt=0, description="passes over the training rows (default 3, new models 10)")
    max_steps: int | None = Field(None, ge=1, description="optimiser steps, instead of epochs")
    batch_size: int = Field(16, ge=1, description="rows per optimiser step")
    eval_batch_size: int = Field(
        64, ge=1, description="rows per forward pass when nothing is trained (fewer where they are long)"
    )
    learning_rate: float | None = Field(None, gt=0, description="default: the technique's own")
    max_length: int | None = Field(None, ge=4, description="tokens a row is cut to (default: the task's)")
    max_train_rows: int | None = Field(None, ge=1, description="use the first N rows of a fixed shuffle")
    max_eval_rows: int | None = Field(None, ge=1, description="measure on the first N rows of a fixed shuffle")
    dtype: Dtype = Field("auto", description="what training computes in; auto asks the device")
    device: str = Field("auto", description="auto, cpu, cuda, mps")
    doctor: bool = Field(True, description="look at the rows before training; errors stop the run")
    trust_remote_code: bool = Field(False, description="run code that a model folder brings along")
    report_to: list[Literal["tensorboard", "wandb"]] = Field(default_factory=list, description="tensorboard, wandb")
    output: str | None = Field(None, description="the run's folder")
    training: TrainingOptions = Field(default_factory=lambda: TrainingOptions())  # type: ignore[call-arg]
    new: NewModelOptions = Field(default_factory=lambda: NewModelOptions())  # type: ignore[call-arg]
    options: dict[str, dict[str, Any]] = Field(default_factory=dict, description="option sets by registry name")

    @field_validator("teacher", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """One teacher may be named without a list."""
        named = [] if value is None else value if isinstance(value, (list, tuple)) else [value]
        return [str(each) for each in named]


class CompareConfig(SpreadOptions, RunConfig):
    """One comparison: a run's settings shared by several techniques and seeds."""

    models: list[str] = Field(
        default_factory=list, description="several models in place of one; new ones learn in full"
    )
    techniques: list[str] = Field(
        default_factory=list, description="default: every technique that applies; of a stream, the usual one"
    )
    strategies: list[str] = Field(
        default_factory=list, description="of a stream; default: every strategy that can keep its tasks"
    )
    alone: bool | None = Field(
        None, description="of a stream: also train each task alone; default: if a stage has several tasks"
    )
    baselines: list[str] | None = Field(None, description="default: every baseline that knows the task")
    learning_rates: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="by technique, instead of learning_rate or the technique's own"
    )
    search: Literal["none", "halving"] = Field(
        "none",
        description="how rates that are not given are chosen: defaults, or successive halving on validation rows",
    )
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default_factory=lambda: [0, 1, 2])

    @field_validator("models", "techniques", "strategies", "baselines", "seeds")
    @classmethod
    def _once(cls, value: list[Any] | None) -> list[Any] | None:
        twice = next((item for i, item in enumerate(value or []) if item in (value or [])[:i]), None)
        if twice is not None:  # it would count twice in means and intervals
            raise ValueError(f"`{twice}` is named twice; name it once")
        return value


C = TypeVar("C", bound=RunConfig)


def is_new(model: str | None) -> bool:
    """Whether a model starts from random weights."""
    return bool(model) and str(model).startswith(NEW)


def default_technique(model: str | None) -> str:
    """What learns when nothing is said: everything where nothing was learned before."""
    return "full" if is_new(model) else str(RunConfig.model_fields["technique"].default)


def build(cls: type[C], raw: Mapping[str, Any]) -> C:
    """Check a raw mapping and return the resolved configuration.

    Raises:
        ConfigError: every wrong setting, with its path.
    """
    settings = merge(raw)
    problems: list[tuple[str, str]] = []
    if isinstance(settings.get("stream"), str):
        settings["stream"] = merge(read_file(settings["stream"]))
    sections: dict[str, dict[str, Any]] = {}
    for key in list(settings):
        if key in cls.model_fields and key != "options":
            continue
        if key == "options":
            given = settings.pop(key) or {}
            if not isinstance(given, Mapping) or not all(isinstance(v or {}, Mapping) for v in given.values()):
                problems.append((key, f"holds option sets by name, such as `lora: {{rank: 8}}`, got `{shown(given)}`."))
                continue
            for name, value in given.items():
                sections.setdefault(name.replace("_", "-"), {}).update(value or {})
            continue
        owners = registry.families_of(key)
        if owners:
            value = settings.pop(key)
            if value is not None and not isinstance(value, Mapping):
                problems.append((key, f"holds options, so it must be a mapping, got `{shown(value)}`."))
                continue
            sections.setdefault(key.replace("_", "-"), {}).update(value or {})
        else:
            settings.pop(key)
            known = [
                *(n for n in cls.model_fields if n != "options"),
                *(n for k in registry.FAMILIES for n in registry.names(k)),
            ]
            problems.append((key, unknown("setting", key, known).split(" Known:")[0]))

    if settings.get("epochs") is not None and settings.get("max_steps") is not None:
        problems.append(("max_steps", "is given together with epochs; give one of them."))
    if issubclass(cls, CompareConfig):
        lists = {"technique": "techniques", "seed": "seeds", "strategy": "strategies"}
        given = {name: settings.pop(name) for name in lists if name in settings}
        # Files of old name strategy: none.
        said = [name for name, value in given.items() if value not in (None, "none")]
        problems += [(name, f"a comparison takes `{lists[name]}`, a list.") for name in said]
        rates, techniques = settings.get("learning_rates"), settings.get("techniques")
        if isinstance(rates, Mapping) and isinstance(techniques, list) and techniques:
            strange = next((str(name) for name in rates if name not in techniques), None)
            if strange is not None:
                problems.append(
                    (f"learning_rates.{strange}", unknown("technique of this comparison", strange, techniques))
                )
        for name in ("strategies", "alone"):
            if settings.get(name) and not settings.get("stream"):
                problems.append((name, "needs a stream: name the file with its stages with --stream."))
    if issubclass(cls, CompareConfig) and settings.get("stream") and settings.get("search") not in (None, "none"):
        problems.append(("search", "looks at one data set; for a stream give the rates with learning_rates."))
    if issubclass(cls, CompareConfig) and isinstance(settings.get("models"), list) and settings["models"]:
        if settings.get("model") not in (None, settings["models"][0]):
            problems.append(("models", "is given together with model; give one of them."))
        settings["model"] = settings["models"][0]
    problems += _new_models(settings)
    problems += _teachers(settings, sections)
    if settings.get("technique") is None:
        settings["technique"] = default_technique(settings.get("model"))
    config: C | None = None
    try:
        config = cls.model_validate(settings)
    except ValidationError as error:
        problems += explain(error, cls)

    checked: dict[str, dict[str, Any]] = {}
    for name, kind in (
        ("task", "task"),
        ("technique", "technique"),
        ("objective", "objective"),
        ("strategy", "strategy"),
    ):
        value = settings.get(name, cls.model_fields[name].default)
        if isinstance(value, str):
            try:
                sections.setdefault(registry.resolve(kind, value).name, {})
            except ConfigError as error:
                problems += [(name, message) for _, message in error.problems]
    for kind, plural in (("technique", "techniques"), ("strategy", "strategies"), ("baseline", "baselines")):
        listed = settings.get(plural)
        for value in listed if isinstance(listed, list) else []:
            try:
                registry.resolve(kind, str(value))
            except ConfigError as error:
                problems += [(plural, message) for _, message in error.problems]
    if config is not None and config.retain is not None and config.retain.task is not None:
        try:
            registry.resolve("task", config.retain.task)
        except ConfigError as error:
            problems += [("retain.task", message) for _, message in error.problems]
    if config is not None and config.stream is not None:
        problems += _streams(config, sections)
    for name, values in sections.items():
        for owner in registry.families_of(name):
            options = registry.load(owner.kind, owner.name).Options
            try:
                checked[name] = options.model_validate(values).model_dump(mode="json")
            except ValidationError as error:
                problems += explain(error, options, name)
    if problems or config is None:
        raise ConfigError(problems)
    config.options = checked
    return config


def _streams(config: RunConfig, sections: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """What is wrong with the tasks of a stream; their option sets are added to those that are checked."""
    found = [
        (name, "is given together with stream, whose stages name their rows.")
        for name in ("train", "validation", "eval")
        if getattr(config, name)
    ]
    for number, stage in enumerate(config.stream.stages if config.stream else ()):
        for task in stage.tasks:
            path = f"stream.stages.{number}.{task.name}"
            try:
                name = registry.resolve("task", task.task).name
            except ConfigError as error:
                found += [(f"{path}.task", message) for _, message in error.problems]
                continue
            sections.setdefault(name, {})
            try:
                registry.load("task", name).Options.model_validate(task.options)
            except ValidationError as error:
                found += explain(error, registry.load("task", name).Options, f"{path}.options")
    return found


def _teachers(settings: dict[str, Any], sections: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What is wrong with teachers and the objective that needs them; a student that is made of its teacher needs no model."""
    given, distils = settings.get("teacher"), settings.get("objective") == "distillation"
    stages = (settings.get("stream") or {}).get("stages") if isinstance(settings.get("stream"), Mapping) else None
    tasks = [
        t for s in stages or [] if isinstance(s, Mapping) for t in (s.get("tasks") or [s]) if isinstance(t, Mapping)
    ]
    if given and not distils:
        return [("teacher", "is for distillation; add --objective distillation, or leave it out.")]
    if distils and not given and not any(task.get("teacher") for task in tasks):
        return [
            (
                "teacher",
                "is what distillation learns from; name an artifact, a model folder, a hub id or asset:NAME with --teacher.",
            )
        ]
    if distils and given and sections.get("distillation", {}).get("student_layers") is not None:
        first = str(given[0] if isinstance(given, (list, tuple)) else given)
        if settings.get("model") not in (None, first):
            return [
                (
                    "model",
                    "is given together with distillation.student_layers, which makes the student of the teacher; give one of them.",
                )
            ]
        settings["model"] = first
    return []


def _new_models(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with `new:` names and options."""
    named = [str(name) for name in (settings.get("models") or [settings.get("model") or ""])]
    found = [
        ("model", unknown("new model", name, [f"{NEW}{kind}" for kind in NEW_MODELS]))
        for name in named
        if is_new(name) and name.removeprefix(NEW) not in NEW_MODELS
    ]
    random = next((name for name in named if is_new(name)), None)
    if random and settings.get("quantization") not in (None, "none"):
        found.append(
            ("quantization", f"is for pretrained weights, and `{random}` starts from random weights; use none.")
        )
    given = settings.get("new")
    try:
        changed = isinstance(given, Mapping) and NewModelOptions.model_validate(given) != NewModelOptions()  # type: ignore[call-arg]
    except ValidationError:
        changed = False  # reported with the rest
    if changed and not any(map(is_new, named)):
        found.append(
            ("new", "describes a model that starts from random weights; name one, for example --model new:lstm.")
        )
    return found


def explain(error: ValidationError, cls: type[BaseModel], prefix: str = "") -> list[tuple[str, str]]:
    """Pydantic's findings as (path, sentence) pairs, with the nearest name for unknown keys."""
    found = []
    for item in error.errors():
        path = ".".join([*([prefix] if prefix else []), *(str(part) for part in item["loc"])])
        if item["type"] == "extra_forbidden":
            owner: Any = cls
            for part in item["loc"][:-1]:
                field = owner.model_fields.get(part) if hasattr(owner, "model_fields") else None
                owner = getattr(field, "annotation", None)
            known = list(getattr(owner, "model_fields", {}))
            message = unknown("setting", str(item["loc"][-1]), known)
        elif item["type"] == "missing":
            message = "is required and was not given."
        elif item["type"] == "value_error":  # a check of ours, already a sentence
            message = item["msg"].removeprefix("Value error, ") + "."
        else:
            message = f"{item['msg'][0].lower()}{item['msg'][1:]}, got `{shown(item['input'])}`."
        found.append((path, message))
    return found


def dump(config: RunConfig) -> str:
    """The resolved configuration as YAML; option sets are written under their own names."""
    hidden = {"technique", "seed", "strategy"} if isinstance(config, CompareConfig) else set()
    plain = config.model_dump(mode="json", exclude=hidden)
    options = plain.pop("options")
    return yaml.dump({**plain, **options}, Dumper=Dumper, sort_keys=False, allow_unicode=True)


def options_of(config: RunConfig, kind: str, name: str) -> Any:
    """The checked option set of one registered name (defaults where the configuration is silent)."""
    entry = registry.resolve(kind, name)
    return registry.load(kind, name).Options.model_validate(config.options.get(entry.name, {}))
