"""A comparison on one page: what is compared, every run, one row for all seeds of each, results and report.

`checks` refuses early, `planning` says which runs there are, `carrying` carries one out, `statistics` and `streams` make rows of them.

OUTPUT/comparison.yaml               the resolved settings
OUTPUT/runs/                         run folders (`planning` says which; under the model's name where several models are compared)
OUTPUT/results.json                  protocol, one row a technique (and strategy), all runs
OUTPUT/report.html
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunesmith import config as configuration
from tunesmith import durable, processes, registry
from tunesmith.cache.store import nothing_left
from tunesmith.compare import halving, jobs, search, study
from tunesmith.compare.carrying import finished
from tunesmith.compare.checks import Identity, refuse_early
from tunesmith.compare.models import models_of
from tunesmith.compare.planning import (
    Planned,
    default_baselines,
    default_strategies,
    default_techniques,
    plan,
    trains_alone,
)
from tunesmith.config import CompareConfig, is_new
from tunesmith.console import quiet_libraries
from tunesmith.errors import SaveError, UserError
from tunesmith.metrics import higher_is_better
from tunesmith.private import hide
from tunesmith.run_folder import claimed, materialise, materialise_retain, materialise_stream, write_json
from tunesmith.stage import DEFAULT_EPOCHS

SCHEMA = 1


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
    train: Any = None,
    validation: Any = None,
    eval: Any = None,
    stream: Any = None,
    techniques: Sequence[str] | None = None,
    strategies: Sequence[str] | None = None,
    output: str | Path = "runs/comparison",
    overwrite: bool = False,
    **settings: Any,
) -> Comparison:
    """Compare techniques on the same rows and budget.

    Args:
        model: folder, GGUF file, hub id, `asset:NAME`, `new:lstm`, or a transformers model object.
        models: several of those names in place of one.
        tokenizer: needed with a model object.
        train: a file, hub id or asset, or a list of dicts, a DataFrame, a `datasets.Dataset`; none with `stream`.
        validation: rows that choices are made on.
        eval: rows that are only measured; without it 10 % of `train` are held out.
        stream: a YAML file, or `{"stages": [...]}` whose stages name their rows in any of those forms.
        techniques: registry names; default: all, with a stream the usual one.
        strategies: how earlier stages of the stream are kept; default: every one that can.
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
        **materialise(
            folder,
            model if model is not None else models[0],
            tokenizer,
            {"train": train, "validation": validation, "eval": eval},
        ),
        **({"retain": materialise_retain(folder, settings["retain"])} if settings.get("retain") is not None else {}),
        **({"stream": materialise_stream(folder, stream)} if stream is not None else {}),
    }
    for key, names in (("techniques", techniques), ("strategies", strategies)):
        if names is not None:
            raw[key] = list(names)
    return execute(configuration.build(CompareConfig, {**raw, "output": str(folder)}), overwrite=overwrite)


def execute(config: CompareConfig, command: str | None = None, *, overwrite: bool = False) -> Comparison:
    """Run what is missing, aggregate everything, write results and report."""
    folder = Path(config.output or "runs/comparison")
    config.output = str(folder)
    with nothing_left(folder):
        return _execute(config, folder, command, overwrite=overwrite)


def _execute(config: CompareConfig, folder: Path, command: str | None, *, overwrite: bool) -> Comparison:
    if not config.seeds:
        raise UserError("--seeds is empty; give at least one seed, for example --seeds 0,1,2.")
    started = time.perf_counter()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(f"cannot make the folder `{folder}`: {error.strerror}; give another --output.") from error
    with claimed(folder):
        return _carry_out_all(config, folder, command, started, overwrite=overwrite)


def _carry_out_all(
    config: CompareConfig, folder: Path, command: str | None, started: float, *, overwrite: bool
) -> Comparison:
    quiet_libraries()
    if config.ray is None or config.search != "none":  # the runs of a cluster are children of its nodes
        processes.open_nursery(many=True)
    config.techniques = config.techniques or default_techniques(config)
    if config.baselines is None:
        config.baselines = default_baselines(config)
    if config.stream is not None:
        chosen = config.strategies or default_strategies(config)
        config.strategies = [registry.resolve("strategy", name).name for name in chosen]
    study.check(config)
    halving.check(config)
    identity = refuse_early(config)
    durable.write(folder / "comparison.yaml", configuration.dump(config))

    if config.epochs is None and config.max_steps is None:
        config.epochs = DEFAULT_EPOCHS  # the same for all, also for new models, whose own default is longer
    box = halving.Halving(config, folder, identity, started) if config.budget is not None else None
    searched: list[dict[str, Any]] = []
    if box is not None:
        runs = box.carry_out_all(None if overwrite else refuse_others)
    else:
        searched = search.carry_out(config, folder, identity.models) if config.search != "none" else []
        planned = list(plan(config, folder, identity.rows, search.rates(searched)))
        if not overwrite:
            refuse_others(planned, identity)
        runs, where = jobs.carry_out_all(planned, folder, identity, config)
    if config.stream is None:
        runs += untouched(config, runs)

    from tunesmith.compare import judging, statistics, streams
    from tunesmith.compare.report import write_report

    protocol = describe(config, runs, command, time.perf_counter() - started)
    protocol |= {"budget": box.about()} if box is not None else where
    rows = statistics.aggregate(runs, protocol)
    if config.stream is not None:
        rows = streams.complete(rows, runs)
    judged = judging.judge(config, folder, rows, runs, protocol)
    protocol = judged.into(protocol) if config.stream is None else protocol
    results = {
        "schema_version": SCHEMA,
        "protocol": protocol,
        "rows": judged.rows,
        "runs": runs,
        "examples": judged.examples,
        "search": searched,
    }
    if config.grid:
        results["studies"] = study.studies(config, rows, protocol["higher_is_better"])
    write_json(folder / "results.json", results)
    write_report(results, folder / "report.html")
    return Comparison(folder, results)


def refuse_others(planned: Sequence[Planned], identity: Identity) -> None:
    """Nothing finished is replaced unasked.

    Raises:
        UserError: a finished run with other settings, rows or another model is there.
    """
    for each in planned:
        place = Path(str(each.run.output))
        if (place / "result.json").is_file() and finished(place, each.run, identity.of_planned(each)) is None:
            raise UserError(
                f"`{place}` holds a finished run with other settings, rows or model; add --overwrite to replace it, or give another --output."
            )


def untouched(config: CompareConfig, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each model scored before anything was learned.

    Not of a stream: later heads are made when earlier stages have been learned. And not of random weights beside other models: what they
    say untrained nobody would compare with.
    """
    measured = {
        (run["model"], run["seed"]): run
        for run in reversed(runs)
        if run["kind"] == "technique" and run["metrics"] and not (is_new(run["model"]) and len(models_of(config)) > 1)
    }
    places = [(model, seed) for model in models_of(config) for seed in config.seeds]
    return [before_of(measured[place]) for place in places if place in measured]


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
    several: dict[str, Any] = {"models": config.models} if len(config.models) > 1 else {}
    several |= {"grid": config.grid} if config.grid else {}
    task = config.task
    if config.stream is not None:
        stages = config.stream.model_dump(mode="json", exclude_defaults=True)["stages"]
        several |= {"strategies": config.strategies, "alone": trains_alone(config), "stream": stages}
        task = "+".join(dict.fromkeys(each.task for stage in config.stream.stages for each in stage.tasks))
    primary = done["metrics"]["primary"] if done and done["metrics"] else "accuracy"
    return {
        "model": config.model, **several, "task": task, "train": config.train, "validation": config.validation, "eval": config.eval,
        "seeds": config.seeds, "epochs": config.epochs or (None if config.max_steps else 3.0), "max_steps": config.max_steps, "batch_size": config.batch_size,
        "techniques": config.techniques, "baselines": config.baselines, "primary": primary, "higher_is_better": higher_is_better(primary),
        "learning_rates": rates_in_words(config),
        "command": command or "tunesmith compare --config comparison.yaml", "versions": cost.versions(), "hardware": cost.hardware(),
        "rows": provenance.get("rows", {}), "data_sha256": provenance.get("data_sha256", {}), "model_sha256": provenance.get("model_sha256", ""),
        "git_commit": cost.git_commit(), "created": datetime.now(UTC).isoformat(timespec="seconds"), "wall_seconds": seconds,
    }  # fmt: skip


def rates_in_words(config: CompareConfig) -> str:
    """Where the learning rates come from."""
    usual = "the technique's default" if config.learning_rate is None else "the same for all, given"
    if "learning_rate" in config.grid:
        usual = "studied, each value in turn"
    elif config.search != "none" and config.learning_rate is None:
        usual = "successive halving on validation rows, the same search for every technique"
    own = ", ".join(f"{name} {rate:g}" for name, rate in config.learning_rates.items())
    return f"{usual}; given for {own}" if own else usual


def command_line() -> str:
    """The command as it was typed, for the report, without secrets."""
    return hide(shlex.join(["tunesmith", *sys.argv[1:]]))
