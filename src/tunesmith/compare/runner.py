"""Carry out a comparison: every run in a process of its own, finished runs kept, failures as rows with a reason.

OUTPUT/comparison.yaml               the resolved settings
OUTPUT/runs/<technique>/<seed>/      run folders (runs/<model>/<technique>/<seed>/ where several models are compared)
OUTPUT/results.json                  protocol, one row a technique, all runs
OUTPUT/report.html
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunesmith import config as configuration
from tunesmith import processes, registry
from tunesmith.cache.store import nothing_left
from tunesmith.compare.models import baselines_of, models_of, place_of, techniques_of
from tunesmith.config import CompareConfig, NewModelOptions, RunConfig, is_new
from tunesmith.console import quiet_libraries, say, verbosity, warn
from tunesmith.errors import ModelError, SaveError, TechniqueError, TunesmithError, UserError
from tunesmith.metrics import higher_is_better
from tunesmith.run_folder import config_sha256, materialise, materialise_retain, write_json, write_text
from tunesmith.stage import DEFAULT_EPOCHS

SCHEMA = 1
EVALUATIONS = 4  # points of the learning curve of each run


class Stopped(TunesmithError):
    """Interrupted between or inside runs; what is finished stays."""

    exit_code = 130


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        folder: where everything lies.
        results: the content of results.json.
    """

    folder: Path
    results: dict[str, Any]

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / "report.html"

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One aggregated row a technique, best first."""
        return list(self.results["rows"])


def compare(
    model: Any = None,
    *,
    models: Sequence[str] = (),
    tokenizer: Any = None,
    train: Any,
    validation: Any = None,
    eval: Any = None,
    techniques: Sequence[str] | None = None,
    output: str | Path = "runs/comparison",
    overwrite: bool = False,
    **settings: Any,
) -> Comparison:
    """Compare techniques on the same rows and budget.

    Args:
        model: folder, GGUF file, hub id, `asset:NAME`, `new:lstm`, or a transformers model object.
        models: several of those names in place of one.
        tokenizer: needed with a model object.
        train: a file, hub id or asset, or a list of dicts, a DataFrame, a `datasets.Dataset`.
        validation: rows that choices are made on.
        eval: rows that are only measured; without it 10 % of `train` are held out.
        techniques: registry names; default: all.
        output: the comparison's folder. Finished runs there are not repeated.
        overwrite: replace finished runs that had other settings, rows or another model.
        **settings: any setting of the command line (`seeds=[0, 1]`, `epochs=1`, `lora={"rank": 8}`).
    """
    folder = Path(output)
    if model is None and not models:
        raise UserError("a comparison needs a model: pass a name, a model object with its tokenizer, or models=[...].")
    if models:
        settings["models"] = list(models)
    raw = {
        **settings,
        **({"retain": materialise_retain(folder, settings["retain"])} if settings.get("retain") is not None else {}),
        **materialise(
            folder,
            model if model is not None else models[0],
            tokenizer,
            {"train": train, "validation": validation, "eval": eval},
        ),
    }
    if techniques is not None:
        raw["techniques"] = list(techniques)
    return execute(configuration.build(CompareConfig, {**raw, "output": str(folder)}), overwrite=overwrite)


def default_techniques() -> list[str]:
    """Every registered technique that needs no further word."""
    return [name for name in registry.names("technique") if name != "peft"]


def default_baselines(task: str) -> list[str]:
    """Every registered baseline that knows a task."""
    wanted = registry.resolve("task", task).name
    return [name for name in registry.names("baseline") if wanted in registry.load("baseline", name).tasks]


def execute(config: CompareConfig, command: str | None = None, *, overwrite: bool = False) -> Comparison:
    """Run what is missing, aggregate everything, write results and report."""
    folder = Path(config.output or "runs/comparison")
    config.output = str(folder)
    with nothing_left(folder):
        return _execute(config, folder, command, overwrite=overwrite)


def _execute(config: CompareConfig, folder: Path, command: str | None, *, overwrite: bool) -> Comparison:
    config.techniques = config.techniques or (["full"] if all(map(is_new, models_of(config))) else default_techniques())
    if not config.seeds:
        raise UserError("--seeds is empty; give at least one seed, for example --seeds 0,1,2.")
    started = time.perf_counter()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(f"cannot make the folder `{folder}`: {error.strerror}; give another --output.") from error
    quiet_libraries()
    processes.open_nursery()
    if config.baselines is None:
        config.baselines = default_baselines(config.task)
    identity = refuse_early(config)
    write_text(folder / "comparison.yaml", configuration.dump(config))

    if config.epochs is None and config.max_steps is None:
        config.epochs = DEFAULT_EPOCHS  # the same for all, also for new models, whose own default is longer
    planned = list(plan(config, folder))
    if not overwrite:
        for _, _, run in planned:
            place = Path(str(run.output))
            if (place / "result.json").is_file() and finished(place, run, identity[run.model]) is None:
                raise UserError(
                    f"`{place}` holds a finished run with other settings, rows or model; add --overwrite to replace it, or give another --output."
                )
    runs: list[dict[str, Any]] = []
    for number, (kind, name, run) in enumerate(planned, 1):
        title = f"[{number}/{len(planned)}] {name}" + (f", seed {run.seed}" if kind == "technique" else "")
        title += f" on {run.model}" if len(models_of(config)) > 1 else ""
        runs.append(carry_out(kind, name, run, folder, title, identity[run.model]))
    # Random weights that were not trained say nothing that a person would compare with.
    measured = {
        (run["model"], run["seed"]): run
        for run in reversed(runs)
        if run["kind"] == "technique" and run["metrics"] and not (is_new(run["model"]) and len(models_of(config)) > 1)
    }
    places = [(model, seed) for model in models_of(config) for seed in config.seeds]
    runs += [before_of(measured[place]) for place in places if place in measured]

    from tunesmith.compare.report import write_report
    from tunesmith.compare.statistics import aggregate

    protocol = describe(config, runs, command, time.perf_counter() - started)
    results = {"schema_version": SCHEMA, "protocol": protocol, "rows": aggregate(runs, protocol), "runs": runs}
    write_json(folder / "results.json", results)
    write_report(results, folder / "report.html")
    return Comparison(folder, results)


def refuse_early(config: CompareConfig) -> dict[str, dict[str, Any]]:
    """Say once, before the first run, what would make every run fail: rows, labels, device or model that cannot be used.

    Returns:
        Hashes of the rows and of each model, by which a run that is already there is recognised.
    """
    from tunesmith.data.splits import load_roles
    from tunesmith.doctor.examination import at_start
    from tunesmith.models.load import load_tokenizer, locate
    from tunesmith.training.precision import pick_device

    pick_device(config.device)
    task = registry.load("task", config.task)(configuration.options_of(config, "task", config.task))
    roles = load_roles(config, task)
    task.fit(roles.train)
    for role, rows in roles.present():
        if role != "train":
            task.check(rows, role)
    at_start(config, task, roles)
    identity: dict[str, dict[str, Any]] = {}
    for model in models_of(config):
        identity[model] = {"data_sha256": roles.sha256()}
        if not is_new(model):  # a new one follows from configuration, rows and seed
            source = locate(model)
            load_tokenizer(source, trust_remote_code=config.trust_remote_code)
            identity[model]["model_sha256"] = source.sha256
    refusals = [None if is_new(model) else refusal(config, locate(model).path) for model in models_of(config)]
    if refusals[0] is not None and None not in refusals:
        raise refusals[0]
    return identity


def refusal(config: CompareConfig, path: str) -> ModelError | None:
    """Why the task makes no sense on a model, if it does not: one of several that fit is a row that failed, all are a mistake."""
    import transformers

    try:
        shape = transformers.AutoConfig.from_pretrained(path, trust_remote_code=config.trust_remote_code)
    except Exception:  # a run says what is wrong with it
        return None
    try:
        registry.load("task", config.task)(configuration.options_of(config, "task", config.task)).model_class(shape)
    except ModelError as error:
        return error
    return None


def plan(config: CompareConfig, folder: Path) -> Iterator[tuple[str, str, RunConfig]]:
    """(kind, name, configuration) of every run, baselines first; a configuration differs in model, technique and seed alone."""
    shared = config.model_dump(mode="json", exclude={"models", "techniques", "baselines", "seeds", "options"})

    def run(model: str, name: str, seed: int, baseline: str | None = None) -> RunConfig:
        place = place_of(config, folder, model, baseline or name, seed)
        return make(config, {**shared, "model": model, "technique": name, "seed": seed, "output": str(place)}, baseline)

    for model in models_of(config):
        for name in baselines_of(config, model):
            yield "baseline", name, run(model, "full", config.seeds[0], name)
    for seed in config.seeds:
        for model in models_of(config):
            for name in techniques_of(config, model):
                yield "technique", name, run(model, name, seed)


def make(config: CompareConfig, settings: dict[str, Any], baseline: str | None = None) -> RunConfig:
    """A run's configuration with the option sets that concern it."""
    run = RunConfig.model_validate(settings)
    if not is_new(run.model):  # what new models are made of does not concern the others
        run.new = NewModelOptions.model_validate({})
    if run.training.evaluate_every is None and run.training.evaluations is None:
        run.training.evaluations = EVALUATIONS
    names = {registry.split_name(n)[0] for n in (run.task, run.technique, run.objective, run.strategy)}
    names |= {baseline} if baseline else set()
    run.options = {name: options for name, options in config.options.items() if name in names}
    for kind, name in (
        ("task", run.task),
        ("technique", run.technique),
        ("objective", run.objective),
        ("strategy", run.strategy),
    ):
        entry = registry.resolve(kind, name)
        run.options.setdefault(entry.name, registry.load(kind, name).Options().model_dump(mode="json"))
    return run


def carry_out(
    kind: str, name: str, run: RunConfig, folder: Path, title: str, identity: dict[str, Any]
) -> dict[str, Any]:
    """One run, or its result if it is already there under the same configuration."""
    place = Path(str(run.output))
    entry: dict[str, Any] = {
        "technique": name, "model": run.model, "kind": kind, "seed": run.seed, "status": "finished", "reason": None,
        "folder": str(place.relative_to(folder)), "learning_rate": None, "metrics": None, "cost": None, "curve": [],
    }  # fmt: skip
    result = finished(place, run, identity)
    if result is not None:
        say(f"{title}: already there.")
    else:
        say(f"{title} ...", level=0)
        target = "tunesmith.run:execute_payload" if kind == "technique" else "tunesmith.compare.runner:baseline_payload"
        payload = {"config": configuration.dump(run), "overwrite": True, "verbosity": verbosity(),
                   "baseline": name, "options": run.options}  # fmt: skip
        try:
            result = processes.call(target, payload)
        except (KeyboardInterrupt, TunesmithError) as error:
            if isinstance(error, KeyboardInterrupt) or error.exit_code == 130:
                raise Stopped(
                    f"interrupted at {title}; finished runs are kept: the same command goes on from there."
                ) from error
            refused = getattr(error, "kind", "") == TechniqueError.__name__
            warn(f"{name}, seed {run.seed}: {error}")
            return {**entry, "status": "refused" if refused else "failed", "reason": str(error)}
        say(f"{title}: {summary(result)}")
    return {
        **entry,
        "learning_rate": result.get("training", {}).get("learning_rate"),
        "metrics": result["metrics"],
        "cost": result["cost"],
        "forgetting": result.get("forgetting"),
        "provenance": result["provenance"],
        "curve": curve(place),
    }


def finished(place: Path, run: RunConfig, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a run that is already there with this configuration, on these rows and this model."""
    try:
        result = dict(json.loads((place / "result.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    seen = {**result.get("provenance", {}), "config_sha256": result.get("provenance", {}).get("config_sha256")}
    same = seen["config_sha256"] == config_sha256(run) and all(
        seen.get(name) == value for name, value in identity.items()
    )
    return result if same and result.get("status") == "finished" else None


def summary(result: dict[str, Any]) -> str:
    """`accuracy 0.812 in 34 s`."""
    primary = result["metrics"]["primary"]
    text = f"{primary} {result['metrics']['after'][primary]:.4f}"
    seconds = result["cost"]["train_seconds"]
    return f"{text}, {seconds:.1f} s of training" if seconds else text


def curve(place: Path) -> list[dict[str, Any]]:
    """Points of the learning curve from metrics.jsonl."""
    from tunesmith.training.log import read

    points: dict[int, dict[str, Any]] = {}
    for line in read(place / "metrics.jsonl"):
        point = points.setdefault(
            line["step"], {"step": line["step"], "seconds": line["seconds"], "loss": None, "eval": None}
        )
        if line["event"] == "train":
            point["loss"] = line["loss"]
        elif line["event"] == "evaluate":
            point["eval"] = line["metrics"]
    return [points[step] for step in sorted(points)]


def before_of(run: dict[str, Any]) -> dict[str, Any]:
    """The untouched model's row from a run's `before` metrics (the head differs by seed, not by technique)."""
    metrics = run["metrics"]
    return {
        "technique": "untouched", "model": run["model"], "kind": "untouched", "seed": run["seed"], "status": "finished", "reason": None, "folder": run["folder"],
        "learning_rate": None, "metrics": {"before": metrics["before"], "after": metrics["before"], "primary": metrics["primary"]},
        "cost": {"trainable_parameters": 0, "total_parameters": None, "train_seconds": None, "tokens_per_second": None,
                 "peak_memory_bytes": None, "artifact_bytes": None, "predicted_memory_bytes": None, "predicted_seconds": None},
        "curve": [],
    }  # fmt: skip


def describe(config: CompareConfig, runs: list[dict[str, Any]], command: str | None, seconds: float) -> dict[str, Any]:
    """What was held equal and what everything depended on."""
    from tunesmith.evaluation import cost

    done = next((run for run in runs if run.get("provenance")), None)
    provenance = done["provenance"] if done else {}
    several = {"models": config.models} if len(config.models) > 1 else {}
    primary = done["metrics"]["primary"] if done and done["metrics"] else "accuracy"
    return {
        "model": config.model, **several, "task": config.task, "train": config.train, "validation": config.validation, "eval": config.eval,
        "seeds": config.seeds, "epochs": config.epochs or (None if config.max_steps else 3.0), "max_steps": config.max_steps, "batch_size": config.batch_size,
        "techniques": config.techniques, "baselines": config.baselines, "primary": primary, "higher_is_better": higher_is_better(primary),
        "learning_rates": "the technique's default" if config.learning_rate is None else "the same for all, given",
        "command": command or "tunesmith compare --config comparison.yaml", "versions": cost.versions(), "hardware": cost.hardware(),
        "rows": provenance.get("rows", {}), "data_sha256": provenance.get("data_sha256", {}), "model_sha256": provenance.get("model_sha256", ""),
        "git_commit": cost.git_commit(), "created": datetime.now(UTC).isoformat(timespec="seconds"), "wall_seconds": seconds,
    }  # fmt: skip


def baseline_payload(payload: dict[str, Any]) -> dict[str, Any]:
    """In its own process: fit a baseline, score it as a run, write its folder."""
    import yaml

    from tunesmith.console import set_verbosity
    from tunesmith.data.splits import load_roles
    from tunesmith.evaluation import cost
    from tunesmith.models.new import source_of
    from tunesmith.run import SCHEMA as RUN_SCHEMA

    set_verbosity(int(payload["verbosity"]), nested=True)
    quiet_libraries()
    config = configuration.build(RunConfig, yaml.safe_load(payload["config"]))
    task = registry.load("task", config.task)(configuration.options_of(config, "task", config.task))
    roles = load_roles(config, task)
    task.fit(roles.train)
    task.check(roles.eval, "eval")
    baseline_class = registry.load("baseline", payload["baseline"])
    baseline = baseline_class(baseline_class.Options.model_validate(payload["options"].get(payload["baseline"], {})))
    if task.name not in baseline.tasks:
        raise UserError(f"the baseline `{payload['baseline']}` knows {', '.join(baseline.tasks)}, not {task.name}.")
    guess = baseline.predict(task, roles, config)
    metric = task.metric()
    for value, row in zip(guess.values, roles.eval.table, strict=True):
        metric.update(value, task.truth(row))
    metrics = {**metric.compute(), "loss": guess.loss}
    import torch

    result = {
        "schema_version": RUN_SCHEMA, "task": config.task, "technique": payload["baseline"], "model": config.model, "seed": config.seed,
        "status": "finished", "metrics": {"before": {}, "after": metrics, "primary": task.primary},
        "cost": {"trainable_parameters": guess.parameters, "total_parameters": None, "train_seconds": guess.seconds, "tokens_per_second": None,
                 "peak_memory_bytes": cost.peak_memory(torch.device("cpu")), "artifact_bytes": 0, "predicted_memory_bytes": None,
                 "predicted_seconds": None},
        "forgetting": None, "stream": None,
        "provenance": {"versions": cost.versions(), "hardware": cost.hardware(), "rows": roles.describe(),
                       "data_sha256": roles.sha256(), "model_sha256": source_of(config, task, roles.train, Path(str(config.output))).sha256,
                       "config_sha256": config_sha256(config), "git_commit": cost.git_commit()},
    }  # fmt: skip
    place = Path(str(config.output))
    place.mkdir(parents=True, exist_ok=True)
    write_json(place / "result.json", result)
    return result


def command_line() -> str:
    """The command as it was typed, for the report."""
    return shlex.join(["tunesmith", *sys.argv[1:]])
