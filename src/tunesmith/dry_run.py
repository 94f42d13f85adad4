"""A run up to its first step, for what it would take: the same preparation as `run`, in a folder that is gone afterwards.

    tunesmith.plan("asset:minilm", train="reviews.csv", techniques=["lora", "full"])

Nothing is learned and nothing is kept but what every run would keep in the cache (encoded rows, what a teacher says of them). Each technique is prepared in
a process of its own, so that the memory that is predicted is that of its own run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith import config as configuration
from tunesmith import processes, registry, trust
from tunesmith.config import RunConfig, is_new
from tunesmith.console import quiet_libraries, say, verbosity
from tunesmith.errors import TunesmithError, UserError
from tunesmith.history import History
from tunesmith.plan.advice import Advice, needs_of
from tunesmith.plan.advice import advise as rank
from tunesmith.plan.prediction import Planned, Prediction
from tunesmith.run_folder import materialise, materialise_stream
from tunesmith.stream import for_task


def predict(config: RunConfig) -> Prediction:
    """What one run would take: the first stage of it, where it has several.

    Raises:
        TunesmithError: the run would be refused.
    """
    quiet_libraries()
    from tunesmith.evaluation import cost

    with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        place = Path(folder) / "run"
        place.mkdir()
        trial = config.model_copy(update={"output": str(place), "retain": None, "report_to": []})
        with trust.remote_code(config.trust_remote_code):
            history = History.begin(trial, place, resume=False)
            history.only_plan = True
            cost.forget_peak(history.device)
            try:
                history.learn_next(resume=False)
            except Planned as planned:
                return planned.prediction
    raise AssertionError("a dry run came to its end")


def predict_payload(payload: dict[str, Any]) -> dict[str, Any]:
    """`predict` for another process: {"config": YAML text, "verbosity"}."""
    import yaml

    from tunesmith.console import set_verbosity

    set_verbosity(int(payload["verbosity"]), nested=True)
    return predict(configuration.build(RunConfig, yaml.safe_load(payload["config"]))).as_json()


def techniques_of(config: RunConfig, named: Sequence[str]) -> list[str]:
    """Those that were named; else every one that needs no further word."""
    if named:
        return list(named)
    if is_new(config.model):
        return ["full"]
    names = [name for name in registry.names("technique") if name != "peft"]
    return [name for name in names if registry.load("technique", name).variant_of is None]


def predict_all(config: RunConfig, techniques: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One entry a technique, in order: its prediction, or why it would be refused (`status`, `reason`)."""
    processes.open_nursery(many=True)
    found = []
    for name in techniques_of(config, techniques):
        own = config.model_copy(update={"technique": name}, deep=True)
        resolved = registry.resolve("technique", name).name
        kinds = set(registry.names("technique")) - {resolved}
        own.options = {key: value for key, value in own.options.items() if key not in kinds}
        say(f"{name} ...")
        try:
            payload = {"config": configuration.dump(own), "verbosity": verbosity()}
            answer = processes.call("tunesmith.dry_run:predict_payload", payload)
            found.append({"status": "planned", "reason": None, **answer, "technique": name})
        except TunesmithError as error:
            if error.exit_code == 130:
                raise
            kind = getattr(error, "kind", "") or type(error).__name__
            status = "refused" if kind == "TechniqueError" else "failed"
            found.append({"status": status, "reason": str(error), "technique": name})
            failure = error
    if len(found) == 1 and found[0]["status"] == "failed":
        raise UserError(str(failure)) if failure.exit_code == UserError.exit_code else failure
    return found


@dataclass(frozen=True)
class Advised:
    """What was planned, and what it was advised from.

    Attributes:
        predictions: one entry a technique, as `predict_all` gives them.
        advice: the ranking.
    """

    predictions: Sequence[dict[str, Any]]
    advice: Advice


def advise_on(config: RunConfig, techniques: Sequence[str] = (), needs: Sequence[str] = ()) -> Advised:
    """Plan every technique and rank them for this case; LoRA over four bits, too, where nothing else fits.

    Raises:
        UserError: a need that is none; nothing could be planned.
    """
    needs_of(needs)  # before minutes are spent
    found = predict_all(config, techniques)
    nothing_fits = [each["fits"] for each in found if each["status"] == "planned"]
    if not techniques and nothing_fits and True not in nothing_fits and None not in nothing_fits:
        found += [each for each in predict_all(config, ["qlora"]) if each["status"] == "planned"]
    if config.stream is None:
        return Advised(found, rank(config.task, found, needs))
    kinds = [each["architecture"] for each in found if each["status"] == "planned"]
    able = _able(config, kinds[0]) if kinds else None
    first = registry.resolve("task", config.stream.stages[0].tasks[0].task).name  # the stage that was planned
    return Advised(found, rank(first, found, needs, stages=len(config.stream.stages), strategies=able))


def _able(config: RunConfig, architecture: str) -> list[str]:
    """Strategies that can keep every task of a stream."""
    assert config.stream is not None
    kind, tasks = "decoder" if architecture == "recurrent" else architecture, []
    for task in (task for stage in config.stream.stages for task in stage.tasks):
        name = registry.resolve("task", task.task).name
        tasks.append(registry.load("task", name)(configuration.options_of(for_task(config, task), "task", name)))
    found = []
    for name in registry.names("strategy"):
        strategy = registry.load("strategy", name)(configuration.options_of(config, "strategy", name))
        if all(strategy.objection(task, kind) is None for task in tasks):
            found.append(name)
    return found


@contextmanager
def _in_files(model: Any, tokenizer: Any, rows: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[RunConfig]:
    """The configuration of what `train` takes, Python objects as files while it lasts; what must not be forgotten is not measured for a plan."""
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        raw = {name: value for name, value in settings.items() if name != "retain"}
        raw |= materialise(Path(folder), model, tokenizer, rows)
        if raw.get("stream"):
            raw["stream"] = materialise_stream(Path(folder), raw["stream"])
        yield configuration.build(RunConfig, raw)


def plan(
    model: Any = None,
    *,
    tokenizer: Any = None,
    train: Any = None,
    validation: Any = None,
    eval: Any = None,
    techniques: Sequence[str] = (),
    **settings: Any,
) -> list[dict[str, Any]]:
    """Predict what training would take, for each technique, without a step.

    Args:
        model: folder, GGUF file, hub id, `asset:NAME`, or a transformers model object.
        tokenizer: needed with a model object.
        train: a file, hub id or asset, or a list of dicts, a DataFrame, a `datasets.Dataset`.
        validation: rows that choices are made on.
        eval: rows that are only measured; without it 10 % of `train` are held out.
        techniques: registry names; default: `technique` if it is given, else all.
        **settings: any setting of `tunesmith.train`.

    Returns:
        One mapping a technique: `memory` (bytes by part), `memory_bytes`, `seconds`, `artifact_bytes`, `fits`, `largest_batch`,
        `trainable_parameters`, and `status` with a `reason` where it is refused.
    """
    named = list(techniques) or ([str(settings["technique"])] if settings.get("technique") else [])
    with _in_files(model, tokenizer, {"train": train, "validation": validation, "eval": eval}, settings) as config:
        return predict_all(config, named)


def advise(
    model: Any = None,
    *,
    tokenizer: Any = None,
    train: Any = None,
    validation: Any = None,
    eval: Any = None,
    techniques: Sequence[str] = (),
    needs: Sequence[str] = (),
    **settings: Any,
) -> dict[str, Any]:
    """Rank techniques for a case, with the reason and the evidence for each place, without a step.

    Args:
        model: as of `plan`, like `tokenizer`, `train`, `validation`, `eval`.
        tokenizer: needed with a model object.
        train: the rows that would be learned from.
        validation: rows that choices are made on.
        eval: rows that are only measured.
        techniques: those to rank; default: all.
        needs: what must be given: some of `merge`, `switch`, `latency`, `keep`.
        **settings: any setting of `tunesmith.train`.

    Returns:
        `technique` (the one advised, or None), `ranked` (each with `behind`, `learning_rate`, `reasons`, `unmet`), `case`, and of a stream `strategies`.
    """
    with _in_files(model, tokenizer, {"train": train, "validation": validation, "eval": eval}, settings) as config:
        return advise_on(config, techniques, needs).advice.as_json()
