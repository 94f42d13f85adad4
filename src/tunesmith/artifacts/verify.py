"""What was saved is what was measured: open the artifact in another process and score the same rows again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith import processes, trust
from tunesmith.artifacts.probes import answers
from tunesmith.artifacts.store import read_info
from tunesmith.artifacts.use import load
from tunesmith.config import RunConfig, build, read_file
from tunesmith.data.splits import load_roles
from tunesmith.errors import VerificationError
from tunesmith.stream import StageTask, file_name, for_task, stages_of

BOUND = 1e-4  # largest difference of a score; fp32 sums in another batch order differ by about 1e-6


def predictions_file(folder: Path, task: str = "") -> Path:
    """Where a run's answers to eval rows lie: predictions.jsonl, of a stream predictions/TASK.jsonl."""
    return folder / "predictions" / f"{task}.jsonl" if task else folder / "predictions.jsonl"


@dataclass(frozen=True)
class Measured:
    """A task that a run measured.

    Attributes:
        file: the name of its predictions file, "" for a plain run's.
        spec: its rows.
        head: what they are read through.
    """

    file: str
    spec: StageTask
    head: str


def tasks_of(folder: Path) -> list[Measured]:
    """What a run measured, in the order of its stages; those of a run that it continues come first."""
    config, info = build(RunConfig, read_file(folder / "config.yaml")), read_info(folder / "artifact")
    if config.stream is None and config.continue_from is None:
        return [Measured("", spec, info["head_name"]) for stage in stages_of(config) for spec in stage.tasks]
    return [Measured(file_name(spec.name), spec, info["parts"][spec.name]) for spec in _specs(config)]


def _specs(config: RunConfig) -> list[StageTask]:
    before: list[StageTask] = []
    if config.continue_from is not None:
        before = _specs(build(RunConfig, read_file(Path(config.continue_from) / "config.yaml")))
    return [*before, *(spec for stage in stages_of(config, {s.name for s in before}) for spec in stage.tasks)]


def verify_run(folder: Path) -> dict[str, Any]:
    """Score a run's artifact again in a fresh process and compare with the predictions of the run.

    Raises:
        VerificationError: a prediction or score differs.
    """
    tasks = tasks_of(folder)
    asked = [{"file": each.file, "spec": each.spec.model_dump(mode="json"), "head": each.head} for each in tasks]
    found = processes.call(
        "tunesmith.artifacts.verify:rescore", {"run": str(folder), "tasks": asked, "trust": trust.allowed()}
    )
    rows, largest = 0, 0.0
    for each, again in zip(tasks, found["tasks"], strict=True):
        rows += int(again["rows"])
        largest = max(largest, compare(folder, each.file, again))
    return {"rows": rows, "largest_difference": largest}


def verify(artifact: str | Path) -> dict[str, Any]:
    """Everything that can be checked of an artifact: hashes of its files and base, and, beside its run, every score.

    Args:
        artifact: its folder, or that of a finished run.

    Returns:
        `files` (how many hashes were compared), and of a run `rows`, `largest_difference` and `metrics`.

    Raises:
        VerificationError: a prediction, score or metric is not what the run measured.
        ArtifactError: a file is missing or damaged, or the base is another.
    """
    info = read_info(Path(artifact))
    folder = Path(info["folder"])
    found: dict[str, Any] = {"artifact": str(folder), "files": len(info["files"])}
    run = folder.parent
    if folder.name != "artifact" or not (run / "result.json").is_file():
        again = processes.call("tunesmith.artifacts.verify:reopen", {"artifact": str(folder), "trust": trust.allowed()})
        return {**found, "base_sha256": again["base_sha256"], "rows": None, "largest_difference": None, "metrics": None}
    tasks = tasks_of(run)
    asked = [{"file": each.file, "spec": each.spec.model_dump(mode="json"), "head": each.head} for each in tasks]
    again = processes.call(
        "tunesmith.artifacts.verify:rescore", {"run": str(run), "tasks": asked, "all": True, "trust": trust.allowed()}
    )
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    hashes, measured = result["provenance"]["data_sha256"], result["metrics"]["after"]
    rows, largest, metrics = 0, 0.0, {}
    for each, scored in zip(tasks, again["tasks"], strict=True):
        name = each.spec.name if each.file else ""
        wanted = (hashes[name] if name else hashes).get("eval")
        if scored["sha256"] != wanted:
            raise VerificationError(
                f"the eval rows of `{each.spec.eval or each.spec.train}` are not those that the run measured (sha256 {str(wanted)[:12]}..., now "
                f"{scored['sha256'][:12]}...); restore them to verify the scores."
            )
        rows += int(scored["rows"])
        largest = max(largest, compare(run, each.file, scored))
        for metric, value in scored["metrics"].items():
            key = f"{name}/{metric}" if name else metric
            before = measured.get(key)
            if before is not None and abs(before - value) > BOUND * max(1.0, abs(before)):
                raise VerificationError(
                    f"`{run}` measured {key} {before:.6g}, and the artifact scores {value:.6g}; train again or restore it."
                )
            metrics[key] = value
    return {
        **found,
        "base_sha256": info["base_model"]["sha256"],
        "rows": rows,
        "largest_difference": largest,
        "metrics": metrics,
    }


def reopen(payload: dict[str, Any]) -> dict[str, Any]:
    """In the fresh process: open the artifact, which compares every hash, and answer something."""
    artifact = load(payload["artifact"], device="cpu", trust_remote_code=bool(payload.get("trust")))
    answers(artifact.model, artifact.tokenizer)
    return {"base_sha256": artifact.opened.info["base_model"]["sha256"]}


def compare(folder: Path, file: str, found: Mapping[str, Any]) -> float:
    """The largest difference of a score between a run's predictions and those made anew.

    Raises:
        VerificationError: a prediction or score differs.
    """
    text = predictions_file(folder, file).read_text(encoding="utf-8")
    lines = text.splitlines()
    saved = [json.loads(lines[place]) for place in found["places"] if place < len(lines)]
    before = np.asarray([np.ravel(row["raw"]) for row in saved], np.float64)
    after = np.asarray([np.ravel(raw) for raw in found["raw"]], np.float64)
    if before.shape != after.shape:
        raise VerificationError(
            f"the artifact of `{folder}` gives other rows than the run measured; its data changed meanwhile."
        )
    # Relative where numbers are large (regression), absolute for probabilities.
    differences = np.abs(before - after) / np.maximum(1.0, np.abs(before))
    largest = float(differences.max()) if before.size else 0.0
    changed = sum(a["prediction"] != b for a, b in zip(saved, found["predictions"], strict=True))
    near = sum(
        a["prediction"] != b and np.abs(x - y).max() <= BOUND
        for a, b, x, y in zip(saved, found["predictions"], before, after, strict=True)
    )
    if largest > BOUND or changed > near:
        raise VerificationError(
            f"the artifact of `{folder}` does not score what was measured: {changed} of {len(saved)} predictions and scores up to "
            f"{largest:.2e} differ (bound {BOUND:g})."
        )
    return largest


def spread(count: int, most: int) -> list[int]:
    """At most so many places among `count`, evenly over all of them: rows of a sorted file are of every kind."""
    return list(range(count)) if count <= most else [(2 * i + 1) * count // (2 * most) for i in range(most)]


def rescore(payload: dict[str, Any]) -> dict[str, Any]:
    """In the fresh process: predictions and scores of eval rows of every task, some spread evenly over them or all."""
    folder = Path(payload["run"])
    config = build(RunConfig, read_file(folder / "config.yaml"))
    artifact = load(
        folder / "artifact", device=config.device, batch_size=config.eval_batch_size, trust_remote_code=bool(payload.get("trust"))
    )  # fmt: skip
    found = []
    for asked in payload["tasks"]:
        artifact.choose(asked["head"])
        roles = load_roles(for_task(config, StageTask.model_validate(asked["spec"])), artifact.task)
        places = spread(len(roles.eval), len(roles.eval) if payload.get("all") else artifact.task.verify_rows)
        rows = roles.eval.select(places, "verify")
        scored = artifact.score(rows, title="verify")
        found.append({
            "rows": len(rows),
            "places": places,
            "predictions": [answer.shown["prediction"] for answer in scored.answers],
            "raw": [list(answer.numbers) for answer in scored.answers],
            "metrics": scored.metrics,
            "sha256": roles.sha256()["eval"],
        })  # fmt: skip
    return {"tasks": found}
