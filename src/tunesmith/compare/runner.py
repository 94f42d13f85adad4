"""Carry out a comparison: every run in a process of its own, finished runs kept, failures as rows with a reason.

OUTPUT/comparison.yaml               the resolved settings
OUTPUT/runs/<technique>/<seed>/      run folders
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
from tunesmith.config import CompareConfig, RunConfig
from tunesmith.console import quiet_libraries, say, verbosity, warn
from tunesmith.errors import SaveError, TechniqueError, TunesmithError, UserError
from tunesmith.metrics import higher_is_better
from tunesmith.run_folder import config_sha256, materialise, write_json, write_text

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
    model: Any,
    *,
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
        model: folder, GGUF file, hub id, `asset:NAME`, or a transformers model object.
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
    raw = {
        **settings,
        **materialise(folder, model, tokenizer, {"train": train, "validation": validation, "eval": eval}),
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
    config.techniques = config.techniques or default_techniques()
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

    planned = list(plan(config, folder))
    if not overwrite:
        for _, _, run in planned:
            place = Path(str(run.output))
            if (place / "result.json").is_file() and finished(place, run, identity) is None:
                raise UserError(
                    f"`{place}` holds a finished run with other settings, rows or model; add --overwrite to replace it, or give another --output."
                )
    runs: list[dict[str, Any]] = []
    for number, (kind, name, run) in enumerate(planned, 1):
        title = f"[{number}/{len(planned)}] {name}" + (f", seed {run.seed}" if kind == "technique" else "")
        runs.append(carry_out(kind, name, run, folder, title, identity))
    measured = {run["seed"]: run for run in reversed(runs) if run["kind"] == "technique" and run["metrics"]}
    runs += [before_of(measured[seed]) for seed in config.seeds if seed in measured]

    from tunesmith.compare.report import write_report
    from tunesmith.compare.statistics import aggregate

    protocol = describe(config, runs, command, time.perf_counter() - started)
    results = {"schema_version": SCHEMA, "protocol": protocol, "rows": aggregate(runs, protocol), "runs": runs}
    write_json(folder / "results.json", results)
    write_report(results, folder / "report.html")
    return Comparison(folder, results)


def refuse_early(config: CompareConfig) -> dict[str, Any]:
    """Say once, before the first run, what would make every run fail: rows, labels, device or model that cannot be used.

    Returns:
        Hashes of the rows and the model, by which a run that is already there is recognised.
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
    source = locate(config.model)
    load_tokenizer(source, trust_remote_code=config.trust_remote_code)
    return {"data_sha256": roles.sha256(), "model_sha256": source.sha256}


def plan(config: CompareConfig, folder: Path) -> Iterator[tuple[str, str, RunConfig]]:
    """(kind, name, configuration) of every run, baselines first; a configuration differs in technique and seed alone."""
    shared = config.model_dump(mode="json", exclude={"techniques", "baselines", "seeds", "options"})
    for name in config.baselines or ():
        place = folder / "runs" / name / str(config.seeds[0])
        yield (
            "baseline",
            name,
            make(config, {**shared, "technique": "full", "seed": config.seeds[0], "output": str(place)}, name),
        )
    for seed in config.seeds:
        for name in config.techniques:
            place = folder / "runs" / name.replace(":", "-") / str(seed)
            yield "technique", name, make(config, {**shared, "technique": name, "seed": seed, "output": str(place)})


def make(config: CompareConfig, settings: dict[str, Any], baseline: str | None = None) -> RunConfig:
    """A run's configuration with the option sets that concern it."""
    run = RunConfig.model_validate(settings)
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
        "technique": name, "kind": kind, "seed": run.seed, "status": "finished", "reason": None,
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
        "technique": "untouched", "kind": "untouched", "seed": run["seed"], "status": "finished", "reason": None, "folder": run["folder"],
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
    primary = done["metrics"]["primary"] if done and done["metrics"] else "accuracy"
    return {
        "model": config.model, "task": config.task, "train": config.train, "validation": config.validation, "eval": config.eval,
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
    from tunesmith.models.load import locate
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
                       "data_sha256": roles.sha256(), "model_sha256": locate(config.model).sha256,
                       "config_sha256": config_sha256(config), "git_commit": cost.git_commit()},
    }  # fmt: skip
    place = Path(str(config.output))
    place.mkdir(parents=True, exist_ok=True)
    write_json(place / "result.json", result)
    return result


def command_line() -> str:
    """The command as it was typed, for the report."""
    return shlex.join(["tunesmith", *sys.argv[1:]])
