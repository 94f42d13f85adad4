"""A run on one page: config -> data -> task + model -> technique -> fit -> evaluate -> artifact.

Every step is one call below, in the order of `execute`; `run_folder` says what a run leaves.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith import config as configuration
from tunesmith.cache.store import nothing_left
from tunesmith.config import RunConfig
from tunesmith.console import quiet_libraries, say, warn
from tunesmith.errors import UserError
from tunesmith.run_folder import (
    clear_folder,
    config_sha256,
    materialise,
    open_folder,
    resume_step,
    write_config,
    write_json,
    write_predictions,
)

DEFAULT_EPOCHS = 3.0
SCHEMA = 1


@dataclass(frozen=True)
class RunResult:
    """What a run found, and where it lies.

    Attributes:
        folder: the run's folder.
        result: the content of result.json.
    """

    folder: Path
    result: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics after training."""
        return dict(self.result["metrics"]["after"])

    @property
    def artifact(self) -> Path:
        """The artifact's folder."""
        return self.folder / "artifact"

    def load(self) -> Any:
        """The artifact, opened for use."""
        from tunesmith.artifacts.use import load

        return load(self.artifact)


def train(
    model: Any,
    *,
    tokenizer: Any = None,
    train: Any,
    validation: Any = None,
    eval: Any = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> RunResult:
    """Train one model with one technique and measure it.

    Args:
        model: folder, GGUF file, hub id, `asset:NAME`, or a transformers model object.
        tokenizer: needed with a model object.
        train: a file, hub id or asset, or a list of dicts, a DataFrame, a `datasets.Dataset`.
        validation: rows that choices are made on, in any of those forms.
        eval: rows that are only measured; without it 10 % of `train` are held out.
        output: the run's folder.
        overwrite: replace a finished run there.
        **settings: any setting of the command line (`technique="lora"`, `epochs=1`, `lora={"rank": 8}`).
    """
    folder = Path(output or default_output({**settings, "model": model if isinstance(model, str) else None}))
    with nothing_left(folder):
        open_folder(folder, overwrite=overwrite, resume=False)  # before anything in it is replaced
        raw = {
            **settings,
            **materialise(folder, model, tokenizer, {"train": train, "validation": validation, "eval": eval}),
        }
        resolved = configuration.build(RunConfig, {**raw, "output": str(folder)})
        return RunResult(folder, execute(resolved, overwrite=overwrite))


def default_output(settings: Mapping[str, Any]) -> str:
    """runs/<technique>-<seed>, with what cannot stand in a file name replaced."""
    chosen = settings.get("technique") or configuration.default_technique(settings.get("model"))
    technique = str(chosen).replace(":", "-").lower()
    return f"runs/{technique}-{settings.get('seed', 0)}"


@dataclass
class Run:
    """What the steps of one run hand to each other."""

    config: RunConfig
    folder: Path
    device: Any
    task: Any
    technique: Any
    roles: Any
    loaded: Any
    encoded: dict[str, Any]
    max_length: int

    def measure(self, model: Any, role: str, title: str) -> Any:
        """Metrics and predictions of a model on the rows of a role."""
        from tunesmith.evaluation.evaluate import evaluate

        return evaluate(
            model, self.task, self.roles[role].table, self.encoded[role], batch_size=self.config.eval_batch_size, device=self.device,
            pad_id=self.loaded.tokenizer.pad_token_id, title=title,
        )  # fmt: skip


def execute(config: RunConfig, *, overwrite: bool = False, resume: bool = False) -> dict[str, Any]:
    """Carry out one run and return its result.

    Raises:
        TunesmithError: what went wrong, in a sentence.
    """
    folder = Path(config.output or default_output(config.model_dump()))
    config.output = str(folder)
    with nothing_left(folder):
        return _execute(config, folder, overwrite=overwrite, resume=resume)


def _execute(config: RunConfig, folder: Path, *, overwrite: bool, resume: bool) -> dict[str, Any]:
    done = open_folder(folder, overwrite=overwrite, resume=resume)
    if done is not None:
        return done
    quiet_libraries()
    from tunesmith.artifacts.store import open_artifact
    from tunesmith.artifacts.verify import verify_run
    from tunesmith.evaluation import cost

    run = prepare(config, folder)
    before = run.measure(run.loaded.model, "eval", "before").metrics
    learned = learn(run, resume=resume)
    source, run.loaded.model, run.loaded.backbone = run.loaded.source, None, None
    gc.collect()

    # What is measured is what was kept: the artifact, opened again on the base as it is on disk.
    model = open_artifact(folder / "artifact").loaded.model.to(run.device)
    scored = run.measure(model, "eval", "after")
    write_predictions(folder, scored)
    del model
    gc.collect()
    verification = verify_run(folder)
    result = {
        "schema_version": SCHEMA,
        "task": config.task,
        "technique": run.technique.name,
        "model": config.model,
        "seed": config.seed,
        "status": "finished",
        "metrics": {"before": before, "after": scored.metrics, "primary": run.task.primary},
        "cost": {
            **learned["cost"],
            "peak_memory_bytes": cost.peak_memory(run.device),
            "artifact_bytes": cost.folder_bytes(folder / "artifact"),
            "predicted_memory_bytes": None,
            "predicted_seconds": None,
        },
        "forgetting": None,
        "stream": None,
        "training": learned["training"],
        "verification": verification,
        "provenance": {
            "versions": cost.versions(),
            "hardware": cost.hardware(),
            "rows": run.roles.describe(),
            "data_sha256": run.roles.sha256(),
            "model_sha256": source.sha256,
            "config_sha256": config_sha256(config),
            "git_commit": cost.git_commit(),
        },
    }
    write_json(folder / "result.json", result)
    return result


def prepare(config: RunConfig, folder: Path) -> Run:
    """Rows in their roles, the task fitted to them, the model under its head, everything encoded."""
    from tunesmith import registry, seeding
    from tunesmith.data.encode import encode, refuse_nothing
    from tunesmith.data.splits import load_roles
    from tunesmith.doctor.examination import at_start
    from tunesmith.models import new
    from tunesmith.models.load import load_model, load_tokenizer, pick_max_length, positions
    from tunesmith.techniques._base import create
    from tunesmith.training.precision import pick_device

    device = pick_device(config.device)
    task = registry.load("task", config.task)(configuration.options_of(config, "task", config.task))
    technique = create(config.technique, config.options.get(registry.resolve("technique", config.technique).name))
    roles = load_roles(config, task)
    say_what_is_odd(roles, config, technique)
    task.fit(roles.train)
    for role, rows in roles.present():
        if role != "train":
            task.check(rows, role)

    seeding.seed_everything(config.seed)
    source = new.source_of(config, task, roles.train, folder)
    tokenizer = load_tokenizer(source, trust_remote_code=config.trust_remote_code)
    loaded = load_model(
        source, tokenizer, task, seed=config.seed, trust_remote_code=config.trust_remote_code, load_options=quantization_options(config, technique),
    )  # fmt: skip
    loaded.model.to(device)
    task.positions = positions(loaded, technique.extra_positions(loaded.backbone))
    max_length = pick_max_length(
        config.max_length, task.default_max_length, loaded, technique.extra_positions(loaded.backbone)
    )
    encoded = {
        role: encode(task, rows, tokenizer, max_length, title=f"tokenise {role}") for role, rows in roles.present()
    }
    for role, rows in roles.present():
        refuse_nothing(encoded[role], rows, max_length)
    at_start(config, task, roles, encoded, loaded, max_length, technique)
    return Run(config, folder, device, task, technique, roles, loaded, encoded, max_length)


def learn(run: Run, *, resume: bool) -> dict[str, Any]:
    """Attach the technique, train, and save the artifact."""
    from tunesmith import registry, seeding
    from tunesmith.artifacts import store as artifacts
    from tunesmith.evaluation import cost
    from tunesmith.models import new
    from tunesmith.models.load import dropout_to
    from tunesmith.training import dropout
    from tunesmith.training.feed import Feed, packing_works
    from tunesmith.training.log import MetricsLog
    from tunesmith.training.loop import Session, fit
    from tunesmith.training.precision import Masters, pick_dtype

    config, technique, loaded, options = run.config, run.technique, run.loaded, run.config.training
    fresh = configuration.is_new(config.model)
    if options.dropout is not None:
        dropout_to(loaded.model, options.dropout)  # before the technique, whose own dropout is its own option
    seeding.seed_everything(seeding.derive(config.seed, "attach"))
    technique.attach(loaded.backbone)
    learning, total = cost.parameters(loaded.model)
    if options.gradient_checkpointing:
        enable = getattr(loaded.model, "activation_checkpointing_enable", loaded.model.gradient_checkpointing_enable)
        enable()
    rows, stand_in, spent = run.encoded["train"], None, 0.0
    if technique.cache_boundary == "base" and technique.options.cache and not run.task.redraws:
        rows, stand_in, spent = frozen_features(run)
    # Where nothing below the head runs, half precision has nothing to speed up.
    dtype = pick_dtype("float32" if stand_in else config.dtype, run.device, total)
    dropout.install(loaded.model)
    packed = (
        stand_in is None
        and run.task.packs
        and packing_works(run.task, loaded.model, rows, loaded.tokenizer.pad_token_id, run.device)
    )
    masters = Masters(loaded.model, dtype)
    feed = Feed(
        run.task, loaded.model, rows, batch_size=config.batch_size, micro_batch_size=options.micro_batch_size, seed=config.seed,
        buckets=options.length_buckets, device=run.device, pad_id=loaded.tokenizer.pad_token_id, stand_in=stand_in,
        capacity=run.max_length if packed else None,
    )  # fmt: skip
    steps = config.max_steps or math.ceil(
        feed.steps_per_epoch * (config.epochs or (new.EPOCHS if fresh else DEFAULT_EPOCHS))
    )
    # Choosing needs several scores: once an epoch, and at least ten times a run, unless the user says otherwise.
    times = options.evaluations or (max(10, math.ceil(steps / feed.steps_per_epoch)) if options.chooses else None)
    every = options.evaluate_every or (math.ceil(steps / times) if times else None)
    usual = new.LEARNING_RATE if fresh and technique.name == "full" else technique.default_learning_rate
    rate = config.learning_rate or usual
    kind = str(dtype).removeprefix("torch.")
    amount = f"{len(run.roles.train):,} rows" + (f" in {len(feed.bins):,} packed sequences" if feed.bins else "")
    say(
        f"{technique.name} on {config.model}: {learning:,} of {total:,} parameters learn, {amount}, "
        f"{steps:,} steps of {config.batch_size}, {kind} on {run.device}."
    )

    if not resume:
        clear_folder(run.folder)
    write_config(run.folder, config)  # from here on the folder holds a run; until here everything could be refused
    measured_on = "validation" if "validation" in run.encoded else "eval"

    def measure() -> dict[str, float]:
        if stand_in is not None:
            stand_in.remove()
        metrics = run.measure(loaded.model, measured_on, measured_on).metrics
        if stand_in is not None:
            stand_in.install()
        return dict(metrics)

    seeding.seed_everything(seeding.derive(config.seed, "fit"))
    log = MetricsLog(run.folder / "metrics.jsonl", resume_after=resume_step(run.folder) if resume else None)
    session = Session(
        config=config, folder=run.folder, backbone=loaded.backbone, technique=technique,
        objective=registry.load("objective", config.objective)(configuration.options_of(config, "objective", config.objective)),
        strategy=registry.load("strategy", config.strategy)(configuration.options_of(config, "strategy", config.strategy)),
        feed=feed, masters=masters, device=run.device, learning_rate=rate, total_steps=steps, log=log, measure=measure,
        measured_on=measured_on, primary=run.task.primary, higher_is_better=run.task.higher_is_better, evaluate_every=every, resume=resume,
    )  # fmt: skip
    if stand_in is not None:
        stand_in.install()
    try:
        fitted = fit(session)
    finally:
        log.close()
        if stand_in is not None:
            stand_in.remove()
    masters.finish()
    if run.task.chooses(run.roles.train):
        found = run.measure(loaded.model, "validation", "validation")
        run.task.tune(found.answers, run.roles.validation.table)
    notes = {"dtype": kind, "learning_rate": rate}
    artifacts.save(run.folder / "artifact", loaded, run.task, technique, config, run.max_length, notes)
    return {
        "cost": {
            "trainable_parameters": learning,
            "total_parameters": total,
            "train_seconds": fitted.seconds + spent,
            "tokens_per_second": fitted.tokens / max(fitted.seconds + spent, 1e-9),
        },
        "training": {
            **notes,
            "steps": fitted.steps,
            "tokens": fitted.tokens,
            "max_length": run.max_length,
            "best_step": fitted.best_step,
            "stopped_early": fitted.stopped_early,
        },
    }


def frozen_features(run: Run) -> tuple[Any, Any, float]:
    """What the frozen backbone makes of the training rows, the stand-in that serves it, and the seconds it took once.

    The seconds count as training time even when the features were cached by an earlier run: without them this
    technique would seem to cost nothing.
    """
    from tunesmith.data.encode import tokenizer_fingerprint
    from tunesmith.evaluation import cost
    from tunesmith.training import features

    source = run.loaded.source
    key = {
        "rows": run.roles.train.sha256,
        "max_length": run.max_length,
        "tokenizer": tokenizer_fingerprint(run.loaded.tokenizer),
        "model": source.sha256 or source.path,
        "technique": run.technique.options.model_dump(mode="json"),
        "task": run.task.name,
        "task_state": run.task.state_dict(),
        "task_options": run.task.options.model_dump(mode="json"),
        "bound": run.task.encoding_key(),
        "task_code": run.task.code_version,
        "model_config": run.loaded.model.config.to_json_string(),
        "quantization": run.config.quantization,
        "seed": run.config.seed if any(run.loaded.backbone.fresh) else None,
        "versions": cost.versions(),
    }
    return features.compute(
        run.loaded.backbone, run.task, run.encoded["train"], key, run.config.eval_batch_size, run.device,
        run.loaded.tokenizer.pad_token_id, run.technique.reader,
    )  # fmt: skip


def resume(folder: str | Path) -> dict[str, Any]:
    """Go on with an unfinished run from its newest checkpoint (from the start, if it has none)."""
    path = Path(folder)
    if not (path / "config.yaml").is_file():
        raise UserError(f"`{folder}` holds no run to resume (no config.yaml).")
    config = configuration.build(RunConfig, configuration.read_file(path / "config.yaml"))
    config.output = str(path)
    return execute(config, resume=True)


def execute_payload(payload: dict[str, Any]) -> dict[str, Any]:
    """`execute` for another process: {"config": YAML text, "overwrite", "resume", "verbosity"}."""
    import yaml

    from tunesmith.console import set_verbosity

    set_verbosity(int(payload.get("verbosity", 0)), nested=True)
    config = configuration.build(RunConfig, yaml.safe_load(payload["config"]))
    return execute(config, overwrite=bool(payload.get("overwrite")), resume=bool(payload.get("resume")))


def quantization_options(config: RunConfig, technique: Any) -> dict[str, Any]:
    """Further loading options; quantised backbones are not there yet."""
    wanted = technique.load_options().get("quantization", config.quantization)
    if wanted != "none":
        raise UserError(f"quantization={wanted} is not available in this version; use none.")
    return {}


def say_what_is_odd(roles: Any, config: RunConfig, technique: Any) -> None:
    """Say which rows were held out, where the user named none, and what random weights mean."""
    if configuration.is_new(config.model) and technique.name != "full":
        warn(
            f"{config.model} starts from random weights, and {technique.name} trains only a part of it; use --technique full, "
            "the default for new models."
        )
    elif configuration.is_new(config.model):
        say(f"{config.model} starts from random weights, so everything learns (technique full).")
    if "by content hash" in roles.origins["eval"]:
        say(f"No --eval given: {len(roles.eval):,} rows ({roles.origins['eval']}) are only measured, not trained on.")
