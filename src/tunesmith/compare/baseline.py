"""A baseline as a run of a comparison: fitted and scored in a process of its own, with the folder of a run.

Of a stream it is fitted on the rows of each task by itself and scored on that task: it has no stages, so it forgets nothing, and its row says
what can be had without a model.
"""

from __future__ import annotations

import math
from itertools import repeat
from pathlib import Path
from typing import Any

from tunesmith import config as configuration
from tunesmith import registry
from tunesmith.artifacts.verify import predictions_file
from tunesmith.config import RunConfig
from tunesmith.console import quiet_libraries
from tunesmith.errors import UserError
from tunesmith.metrics.counts import row_counts
from tunesmith.run_folder import config_sha256, write_json, write_rows
from tunesmith.stage import MEAN
from tunesmith.stream import for_task


def baseline_payload(payload: dict[str, Any]) -> dict[str, Any]:
    """In its own process: fit a baseline, score it as a run, write its folder."""
    import torch
    import yaml

    from tunesmith.console import set_verbosity
    from tunesmith.evaluation import cost
    from tunesmith.run import SCHEMA

    set_verbosity(int(payload["verbosity"]), nested=True)
    quiet_libraries()
    config = configuration.build(RunConfig, yaml.safe_load(payload["config"]))
    if config.stream is None:
        found = score(payload, config)
        metrics, primary, stream = found["metrics"], found["primary"], None
        rows, hashes = found["rows"], found["data_sha256"]
    else:
        each = {
            task.name: score(payload, for_task(config, task)) for stage in config.stream.stages for task in stage.tasks
        }
        found = next(iter(each.values())) | {
            name: sum(one[name] for one in each.values()) for name in ("parameters", "seconds")
        }
        metrics, primary, stream = together(each), MEAN, as_stream(config, each)
        rows, hashes = ({name: one[key] for name, one in each.items()} for key in ("rows", "data_sha256"))
    result = {
        "schema_version": SCHEMA, "task": config.task, "technique": payload["baseline"], "model": config.model, "seed": config.seed,
        "status": "finished", "metrics": {"before": {}, "after": metrics, "primary": primary},
        "cost": {"trainable_parameters": found["parameters"], "total_parameters": None, "train_seconds": found["seconds"], "tokens_per_second": None,
                 "peak_memory_bytes": cost.peak_memory(torch.device("cpu")), "artifact_bytes": 0, "predicted_memory_bytes": None,
                 "predicted_seconds": None},
        "forgetting": None, "stream": stream,
        "provenance": {"versions": cost.versions(), "hardware": cost.hardware(), "rows": rows,
                       "data_sha256": hashes, "model_sha256": found["model_sha256"],
                       "config_sha256": config_sha256(config), "git_commit": cost.git_commit()},
    }  # fmt: skip
    place = Path(str(config.output))
    if config.stream is None and found["counts"] is not None:
        write_rows(predictions_file(place), repeat({}), found["counts"])
    write_json(place / "result.json", result)
    return result


def score(payload: dict[str, Any], config: RunConfig) -> dict[str, Any]:
    """A baseline's metrics on one task, what they cost, and what they depend on."""
    from tunesmith.data.splits import load_roles
    from tunesmith.models.new import source_of

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
    truths = [task.truth(row) for row in roles.eval.table]
    for value, true in zip(guess.values, truths, strict=True):
        metric.update(value, true)
    return {
        "metrics": {**metric.compute(), "loss": guess.loss}, "counts": row_counts(metric, guess.values, truths), "primary": task.primary, "higher": task.higher_is_better,
        "parameters": guess.parameters, "seconds": guess.seconds, "rows": roles.describe(), "data_sha256": roles.sha256(),
        "model_sha256": source_of(config, task, roles.train, Path(str(config.output))).sha256,
    }  # fmt: skip


def together(each: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The metrics of all tasks of a stream, as a run has them."""
    scores = [(1.0 if one["higher"] else -1.0) * one["metrics"][one["primary"]] for one in each.values()]
    flat = {f"{name}/{metric}": value for name, one in each.items() for metric, value in one["metrics"].items()}
    losses = [one["metrics"]["loss"] for one in each.values()]
    return {MEAN: math.fsum(scores) / len(scores), **flat, "loss": math.fsum(losses) / len(losses)}


def as_stream(config: RunConfig, each: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One row of a matrix: what the baseline scores on every stage."""
    assert config.stream is not None
    stages = config.stream.stages
    found = {name: one["metrics"][one["primary"]] for name, one in each.items()}
    row = [math.fsum(found[task.name] for task in stage.tasks) / len(stage.tasks) for stage in stages]
    signs = [1.0 if all(each[task.name]["higher"] for task in stage.tasks) else -1.0 for stage in stages]
    return {
        "stages": [stage.name for stage in stages], "matrix": [row],
        "average_accuracy": math.fsum(sign * value for sign, value in zip(signs, row, strict=True)) / len(row),
        "higher_is_better": [sign > 0 for sign in signs],
    }  # fmt: skip
