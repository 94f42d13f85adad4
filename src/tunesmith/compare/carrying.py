"""One run of a comparison: in a process of its own, not repeated if it is there, gone on with if it was killed, a row if it fails."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tunesmith import config as configuration
from tunesmith import processes
from tunesmith.compare.planning import Planned
from tunesmith.config import RunConfig
from tunesmith.console import say, verbosity, warn
from tunesmith.errors import Interrupted, TechniqueError, TunesmithError
from tunesmith.run_folder import config_sha256, write_json

BEGUN_FILE = "begun.json"
"""In the comparison's folder: which runs were begun, with what configuration, rows and model."""


Call = Callable[[str, dict[str, Any]], dict[str, Any]]
"""How a run gets its process: `processes.call`, or what has its form."""
_noting = threading.Lock()


def carry_out(
    planned: Planned, folder: Path, number: str, identity: Mapping[str, Any], call: Call | None = None
) -> dict[str, Any]:
    """One run, or its result if it is already there under the same configuration.

    Args:
        planned: the run.
        folder: of the comparison.
        number: its place among all, as people read it.
        identity: what its provenance must say.
        call: how it gets its process.
    """
    run, name = planned.run, planned.name
    place, title = Path(str(run.output)), f"{number} {planned.title}"
    stream = (
        {"strategy": planned.strategy, "stream": None} if planned.strategy is not None or run.stream is not None else {}
    )
    if planned.task is not None:
        stream = {"strategy": None, "task": planned.task}
    if planned.point is not None:
        stream = {"setting": planned.point.setting}
    entry: dict[str, Any] = {
        "technique": name, **stream, "model": run.model, "kind": planned.kind, "seed": run.seed, "status": "finished", "reason": None,
        "folder": str(place.relative_to(folder)), "learning_rate": None, "metrics": None, "cost": None, "curve": [],
    }  # fmt: skip
    result = finished(place, run, identity)
    if result is not None:
        say(f"{title}: already there.")
    else:
        try:
            result = _carry_out(planned, folder, title, identity, call or processes.call)
        except (KeyboardInterrupt, TunesmithError) as error:
            if isinstance(error, KeyboardInterrupt) or error.exit_code == 130:
                raise Interrupted(
                    f"interrupted at {title}; finished runs are kept: the same command goes on from there."
                ) from error
            if run.stream is None:
                _forget(folder, run)
            refused = getattr(error, "kind", "") == TechniqueError.__name__
            warn(f"{planned.title}: {error}")
            return {**entry, "status": "refused" if refused else "failed", "reason": str(error)}
        say(f"{title}: {summary(result)}")
    if result.get("stream"):
        entry["stream"] = result["stream"]
    return {
        **entry,
        "learning_rate": result.get("training", {}).get("learning_rate"),
        "metrics": result["metrics"],
        "cost": result["cost"],
        "forgetting": result.get("forgetting"),
        "warnings": result.get("training", {}).get("warnings", []),
        "provenance": result["provenance"],
        "curve": whole_curve(place, result),
    }


def _carry_out(planned: Planned, folder: Path, title: str, identity: Mapping[str, Any], call: Call) -> dict[str, Any]:
    """In a process of its own: a run that was stopped on its way goes on, one that failed starts over (of a stream it goes on, too)."""
    run = planned.run
    is_baseline = planned.kind == "baseline"
    target = "tunesmith.compare.baseline:baseline_payload" if is_baseline else "tunesmith.run:execute_payload"
    payload = {
        "config": configuration.dump(run),
        "verbosity": verbosity(),
        "baseline": planned.name,
        "options": run.options,
    }
    if not is_baseline:
        if _begun(folder, run, identity):
            say(f"{title}: going on where it stopped ...")
            try:
                return call(target, {**payload, "overwrite": False, "resume": True})
            except processes.ChildError as error:
                if error.exit_code == 130:
                    raise
                warn(f"{planned.title} cannot go on and starts over: {error}")
        _note(folder, run, identity)
    say(f"{title} ...")
    # A run says that it is none to go on with: by that a cluster knows what it may go on with after a node died.
    return call(target, {**payload, "overwrite": True, **({} if is_baseline else {"resume": False})})


def _begun(folder: Path, run: RunConfig, identity: Mapping[str, Any]) -> bool:
    """Whether a run with this configuration, on these rows and this model, was begun and not finished."""
    place = Path(str(run.output))
    if not (place / "config.yaml").is_file() or (place / "result.json").is_file():
        return False
    return _notes(folder).get(str(place.relative_to(folder))) == {"config_sha256": config_sha256(run), **identity}


def _note(folder: Path, run: RunConfig, identity: Mapping[str, Any]) -> None:
    key = str(Path(str(run.output)).relative_to(folder))
    with _noting:  # runs may be begun by several threads
        write_json(folder / BEGUN_FILE, {**_notes(folder), key: {"config_sha256": config_sha256(run), **identity}})


def _forget(folder: Path, run: RunConfig) -> None:
    """What failed would fail again from its last checkpoint."""
    key = str(Path(str(run.output)).relative_to(folder))
    with _noting:
        write_json(folder / BEGUN_FILE, {name: note for name, note in _notes(folder).items() if name != key})


def _notes(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / BEGUN_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def finished(place: Path, run: RunConfig, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of a run that is already there with this configuration, on these rows and this model."""
    try:
        result = dict(json.loads((place / "result.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    provenance, kept = result.get("provenance", {}), result.get("forgetting") or {}
    seen = {**provenance, "config_sha256": provenance.get("config_sha256"), "retain_sha256": kept.get("sha256")}
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


def whole_curve(place: Path, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The curve of a finished run with its ends, before the first step and after the last, where they are of the rows that were scored in between."""
    from tunesmith.training.log import read

    found = curve(place)
    if not found or any(
        line["event"] == "evaluate" and line["split"] != "eval" for line in read(place / "metrics.jsonl")
    ):
        return found
    if found[-1]["step"] == result.get("training", {}).get("steps"):
        found[-1]["eval"] = result["metrics"]["after"]
    if result["metrics"].get("before"):
        found.insert(0, {"step": 0, "seconds": 0.0, "loss": None, "eval": result["metrics"]["before"]})
    return found
