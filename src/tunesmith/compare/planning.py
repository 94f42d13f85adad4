"""Which runs a comparison is made of: baselines first, then every technique (and strategy) with every seed.

OUTPUT/runs/<technique>/<seed>/                    a plain comparison
OUTPUT/runs/<technique>+<strategy>/<seed>/         a stream
OUTPUT/runs/<technique>+alone/<task>/<seed>/       a task of a stream, trained by itself with the same budget
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith import registry
from tunesmith.compare.models import baselines_of, models_of, place_of, techniques_of
from tunesmith.compare.study import Point, points, techniques_of_grid
from tunesmith.config import CompareConfig, NewModelOptions, RunConfig, default_technique, is_new, options_of
from tunesmith.stage import DEFAULT_EPOCHS
from tunesmith.stream import Stage, file_name, for_task

EVALUATIONS, SHARE = 4, 0.5  # points of each run's learning curve, and of its training time that they may take
ALONE = "alone"
NEVER_OF_A_RUN = {
    *("models", "techniques", "strategies", "baselines", "seeds", "alone", "options", "learning_rates"),
    *("grid", "budget", "jobs", "ray", "search", "examples"),
}


@dataclass(frozen=True)
class Planned:
    """A run that a comparison is made of.

    Attributes:
        kind: `technique`, `baseline`, or `alone`.
        name: of the technique or baseline.
        run: its configuration.
        strategy: of a stream.
        task: of the stream, which is trained alone.
        point: of a grid.
    """

    kind: str
    name: str
    run: RunConfig
    strategy: str | None = None
    task: str | None = None
    point: Point | None = None

    @property
    def title(self) -> str:
        """What people read while it runs."""
        how = f" + {self.strategy}" if self.strategy else f", {self.task} alone" if self.task else ""
        how += f" with {self.point.setting}" if self.point else ""
        return f"{self.name}{how}" + (f", seed {self.run.seed}" if self.kind != "baseline" else "")


def default_techniques(config: CompareConfig) -> list[str]:
    """Every registered technique that needs no further word; of a stream, which multiplies them by its strategies, the usual one."""
    if all(map(is_new, models_of(config))):
        return ["full"]
    if config.grid:
        return techniques_of_grid(config)
    if config.stream is not None:
        return [default_technique(models_of(config)[0])]
    names = [name for name in registry.names("technique") if name != "peft"]
    return [name for name in names if registry.load("technique", name).variant_of is None]


def default_baselines(config: CompareConfig) -> list[str]:
    """Every registered baseline that knows the task; of a stream, majority where it knows all of them."""
    known = {name: set(registry.load("baseline", name).tasks) for name in registry.names("baseline")}
    if config.stream is None:
        wanted = registry.resolve("task", config.task).name
        return [name for name, tasks in known.items() if wanted in tasks]
    tasks = {registry.resolve("task", task.task).name for stage in config.stream.stages for task in stage.tasks}
    return ["majority"] if tasks <= known["majority"] else []


def default_strategies(config: CompareConfig) -> list[str]:
    """Every registered strategy that can keep the stream's tasks, `none` first and `joint` last; one stage has nothing to keep."""
    assert config.stream is not None
    if len(config.stream.stages) == 1:
        return ["none"]
    tasks = []
    for task in (task for stage in config.stream.stages for task in stage.tasks):
        name = registry.resolve("task", task.task).name
        tasks.append(registry.load("task", name)(options_of(for_task(config, task), "task", name)))
    kind = _kind(models_of(config)[0])
    fit = []
    for name in registry.names("strategy"):
        strategy = registry.load("strategy", name)(options_of(config, "strategy", name))
        if all(strategy.objection(task, kind) is None for task in tasks):
            fit.append(name)
    middle = [name for name in fit if name not in ("none", "joint")]
    return ["none", *middle, "joint"]


def _kind(model: str) -> str:
    """What kind of model a name stands for, as far as its configuration says."""
    import transformers

    from tunesmith.models.load import locate

    if is_new(model):
        return "decoder"
    shape = transformers.AutoConfig.from_pretrained(locate(model).path)
    return "encoder-decoder" if getattr(shape, "is_encoder_decoder", False) else "encoder"


def trains_alone(config: CompareConfig) -> bool:
    """Whether every task is also trained alone: asked for, or because a stage has several tasks at once."""
    if config.stream is None:
        return False
    return any(len(stage.tasks) > 1 for stage in config.stream.stages) if config.alone is None else config.alone


def plan(
    config: CompareConfig,
    folder: Path,
    rows: Mapping[str, int] | None = None,
    searched: Mapping[tuple[str, str], float] | None = None,
) -> Iterator[Planned]:
    """Every run, baselines first; configurations differ in model, technique, strategy and seed alone.

    Args:
        config: of the comparison, with nothing left to default.
        folder: its own.
        rows: training rows of each task of a stream, by which a shared budget is divided.
        searched: rates by model and technique, where none is given.
    """

    def make_run(
        model: str,
        name: str,
        seed: int,
        label: str,
        of: CompareConfig = config,
        baseline: str | None = None,
        **more: Any,
    ) -> RunConfig:
        place = place_of(config, folder, model, label, seed)
        shared = of.model_dump(mode="json", exclude=NEVER_OF_A_RUN)
        settings = {**shared, "model": model, "technique": name, "seed": seed, "output": str(place), **more}
        found = of.learning_rate if baseline else of.learning_rate or (searched or {}).get((model, name))
        settings["learning_rate"] = of.learning_rates.get(name, found)
        return make(of, settings, baseline)

    settings_of = {name: points(config, name) for model in models_of(config) for name in techniques_of(config, model)}
    for model in models_of(config):
        for name in baselines_of(config, model):
            yield Planned("baseline", name, make_run(model, "full", config.seeds[0], name, baseline=name))
    for seed in config.seeds:
        for model in models_of(config):
            for name in techniques_of(config, model):
                for strategy in config.strategies if config.stream is not None else ():
                    label = f"{name}+{strategy}"
                    yield Planned("technique", name, make_run(model, name, seed, label, strategy=strategy), strategy)
                if config.stream is None:
                    for point in settings_of[name]:
                        label = f"{name}@{point.label}" if point.values else name
                        run = make_run(model, name, seed, label, point.config)
                        yield Planned("technique", name, run, point=point if point.values else None)
                elif trains_alone(config):
                    run = make_run(model, name, seed, f"{name}+{ALONE}", strategy="none")
                    for stage in config.stream.stages:
                        yield from (
                            Planned(ALONE, name, each, None, task) for task, each in alone(run, stage, rows or {})
                        )


def alone(run: RunConfig, stage: Stage, rows: Mapping[str, int]) -> Iterator[tuple[str, RunConfig]]:
    """Each task of a stage as a run of its own that sees as many of its rows as it sees in the stage.

    A task with the share s of the steps of a stage with N rows is trained alone for s max_steps steps, or, by epochs, for s N / n times the
    epochs over its own n rows: with proportional mixing, where s = n / N, just as many.
    """
    counts = {task.name: rows.get(task.name, 1) for task in stage.tasks}
    shares = stage.shares(counts)
    for task in stage.tasks:
        share = shares[task.name]
        steps = stage.max_steps or (None if stage.epochs else run.max_steps)
        more = share * sum(counts.values()) / counts[task.name]
        place = Path(str(run.output))
        own = for_task(run, task).model_copy(
            update={
                "max_steps": math.ceil(steps * share) if steps else None,
                "epochs": None if steps else round((stage.epochs or run.epochs or DEFAULT_EPOCHS) * more, 6),
                "learning_rate": stage.learning_rate or run.learning_rate,
                "output": str(place.parent / file_name(task.name) / place.name),
            }
        )
        names = {registry.resolve("task", task.task).name, registry.split_name(own.technique)[0], own.objective, "none"}
        own.options = {name: options for name, options in own.options.items() if name in names}
        yield task.name, own


def make(config: CompareConfig, settings: dict[str, Any], baseline: str | None = None) -> RunConfig:
    """A run's configuration with the option sets that concern it."""
    run = RunConfig.model_validate(settings)
    if not is_new(run.model):  # what new models are made of does not concern the others
        run.new = NewModelOptions.model_validate({})
    # A stream's curve is its matrix; scores between steps would only cost time.
    if run.stream is None and run.training.evaluate_every is None and run.training.evaluations is None:
        run.training.evaluations = EVALUATIONS
        if run.training.evaluation_share is None:
            run.training.evaluation_share = SHARE
    tasks = [task.task for stage in run.stream.stages for task in stage.tasks] if run.stream else [run.task]
    used = [
        *(("task", name) for name in tasks),
        ("technique", run.technique),
        ("objective", run.objective),
        ("strategy", run.strategy),
    ]
    names = {registry.split_name(name)[0] for _, name in used} | {
        registry.resolve(kind, name).name for kind, name in used
    }
    names |= {baseline} if baseline else set()
    if run.retain is not None:  # what it is asked by, and in which words
        names |= {"zero-shot", *([registry.resolve("task", run.retain.task).name] if run.retain.task else [])}
    run.options = {name: options for name, options in config.options.items() if name in names}
    for kind, name in used:
        entry = registry.resolve(kind, name)
        run.options.setdefault(entry.name, registry.load(kind, name).Options().model_dump(mode="json"))
    return run
