"""A run on one page: config -> data -> task + model -> technique -> fit -> evaluate -> artifact.

Every step is one call below, in the order of `execute`. What a run leaves:

    OUTPUT/config.yaml       resolved; running it again gives the same run
    OUTPUT/metrics.jsonl     one object a logged step or evaluation
    OUTPUT/predictions.jsonl one object an eval row, from the reloaded artifact
    OUTPUT/result.json       scores, costs, provenance
    OUTPUT/checkpoints/      resumable states
    OUTPUT/artifact/         what evaluate, predict and export take
"""

from __future__ import annotations

import gc
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith import config as configuration
from tunesmith.config import RunConfig
from tunesmith.console import quiet_libraries, say, warn
from tunesmith.errors import SaveError, UserError

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
    folder = Path(output or default_output(settings))
    raw = {**settings, **materialise(folder, model, tokenizer, {"train": train, "validation": validation, "eval": eval})}
    resolved = configuration.build(RunConfig, {**raw, "output": str(folder)})
    return RunResult(folder, execute(resolved, overwrite=overwrite))


def default_output(settings: Mapping[str, Any]) -> str:
    """runs/<technique>-<seed>, with what cannot stand in a file name replaced."""
    technique = str(settings.get("technique", "lora")).replace(":", "-").lower()
    return f"runs/{technique}-{settings.get('seed', 0)}"


def materialise(folder: Path, model: Any, tokenizer: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """Write Python objects into files of the run, so that a resolved configuration can be run again."""
    from tunesmith.data.sources import write_objects

    named: dict[str, Any] = {}
    if isinstance(model, (str, Path)):
        named["model"] = str(model)
    else:
        if tokenizer is None:
            raise UserError("a model object needs its tokenizer: pass tokenizer=.")
        place = folder / "base_model"
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
        named["model"] = str(place)
    for role, rows in data.items():
        if rows is None or isinstance(rows, (str, Path)):
            named[role] = None if rows is None else str(rows)
        else:
            named[role] = str(write_objects(rows, folder / "data" / f"{role}.jsonl"))
    return named


def execute(config: RunConfig, *, overwrite: bool = False, resume: bool = False) -> dict[str, Any]:
    """Carry out one run and return its result.

    Raises:
        TunesmithError: what went wrong, in a sentence.
    """
    folder = Path(config.output or default_output(config.model_dump()))
    config.output = str(folder)
    done = open_folder(folder, overwrite=overwrite, resume=resume)
    if done is not None:
        return done

    from tunesmith import registry, seeding
    from tunesmith.artifacts import store as artifacts
    from tunesmith.artifacts.use import Artifact
    from tunesmith.artifacts.verify import verify_run
    from tunesmith.data.splits import load_roles
    from tunesmith.evaluation import cost
    from tunesmith.evaluation.encode import encode, pick_max_length, tokenizer_fingerprint
    from tunesmith.evaluation.evaluate import evaluate
    from tunesmith.models.load import dropout_to, load_model, load_tokenizer, locate
    from tunesmith.techniques._base import Technique
    from tunesmith.training import dropout, features
    from tunesmith.training.feed import Feed
    from tunesmith.training.log import MetricsLog
    from tunesmith.training.loop import Session, fit
    from tunesmith.training.precision import Masters, pick_device, pick_dtype

    quiet_libraries()

    def options(kind: str, name: str) -> Any:
        return configuration.options_of(config, kind, name)

    # -- what is trained on what
    device = pick_device(config.device)
    task = registry.load("task", config.task)(options("task", config.task))
    technique: Technique = registry.load("technique", config.technique)(
        options("technique", config.technique), registry.split_name(config.technique)[1]
    )
    roles = load_roles(config, task)
    warn_about(roles)
    task.fit(roles.train)
    for role, rows in (("validation", roles.validation), ("eval", roles.eval)):
        if rows is not None:
            task.check(rows, role)

    seeding.seed_everything(config.seed)
    source = locate(config.model)
    tokenizer = load_tokenizer(source, trust_remote_code=config.trust_remote_code)
    loaded = load_model(
        source, tokenizer, task.auto_class, task.config_overrides(), reads=task.reads, seed=config.seed,
        trust_remote_code=config.trust_remote_code, load_options=quantization_options(config, technique),
    )  # fmt: skip
    max_length = pick_max_length(config.max_length, task, loaded, technique.extra_positions())
    encoded = {
        role: encode(task, rows, tokenizer, max_length, title=f"tokenise {role}")
        for role, rows in (("train", roles.train), ("validation", roles.validation), ("eval", roles.eval))
        if rows is not None
    }
    write_config(folder, config)

    # -- the model as it comes, then with the technique on it
    measuring = {"batch_size": config.eval_batch_size, "device": device, "pad_id": tokenizer.pad_token_id}
    loaded.model.to(device)
    before = evaluate(loaded.model, task, encoded["eval"], title="before", **measuring).metrics
    seeding.seed_everything(seeding.derive(config.seed, "attach") % 2**63)
    technique.attach(loaded.backbone)
    learning, total = cost.parameters(loaded.model)
    dtype = pick_dtype(config.dtype, device, total)
    if config.training.dropout is not None:
        dropout_to(loaded.model, config.training.dropout)
    if config.training.gradient_checkpointing:
        loaded.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    learning_rate = config.learning_rate or technique.default_learning_rate

    train_rows, stand_in = encoded["train"], None
    if technique.cache_boundary == "base" and technique.options.cache:
        key = {
            "rows": roles.train.sha256, "max_length": max_length, "tokenizer": tokenizer_fingerprint(tokenizer), "model": source.sha256 or source.path,
            "technique": technique.options.model_dump(mode="json"), "task": task.name, "state": task.state_dict(), "versions": cost.versions(),
        }  # fmt: skip
        train_rows, stand_in = features.compute(
            loaded.backbone, task, train_rows, key, config.eval_batch_size, device, tokenizer.pad_token_id,
            technique.reader,
        )
        import torch

        dtype = torch.float32  # nothing below the head runs
    dropout.install(loaded.model)
    masters = Masters(loaded.model, dtype)
    feed = Feed(
        task, loaded.model, train_rows,
        batch_size=config.batch_size, micro_batch_size=config.training.micro_batch_size, seed=config.seed,
        buckets=config.training.length_buckets, device=device, pad_id=tokenizer.pad_token_id, stand_in=stand_in,
    )  # fmt: skip
    total_steps = config.max_steps or math.ceil(feed.steps_per_epoch * (config.epochs or DEFAULT_EPOCHS))
    say(
        f"{technique.name} on {config.model}: {learning:,} of {total:,} parameters learn, {len(roles.train):,} rows, "
        f"{total_steps:,} steps of {config.batch_size}, {str(dtype).removeprefix('torch.')} on {device}."
    )

    # -- learn
    seeding.seed_everything(seeding.derive(config.seed, "fit") % 2**63)
    measured_on = "validation" if roles.validation is not None else "eval"

    def measure() -> dict[str, float]:
        if stand_in is not None:
            stand_in.remove()
        metrics = evaluate(loaded.model, task, encoded[measured_on], title=measured_on, **measuring).metrics
        if stand_in is not None:
            stand_in.install()
        return metrics

    log = MetricsLog(folder / "metrics.jsonl", resume_after=resume_step(folder) if resume else None)
    session = Session(
        config=config, folder=folder, backbone=loaded.backbone, technique=technique,
        objective=registry.load("objective", config.objective)(options("objective", config.objective)),
        strategy=registry.load("strategy", config.strategy)(options("strategy", config.strategy)),
        feed=feed, masters=masters, device=device, learning_rate=learning_rate, total_steps=total_steps, log=log,
        measure=measure, measured_on=measured_on, primary=task.primary, higher_is_better=task.higher_is_better, resume=resume,
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

    # -- keep it, open what was kept, and measure that
    notes = {"dtype": str(dtype).removeprefix("torch."), "learning_rate": learning_rate}
    artifacts.save(folder / "artifact", loaded, task, technique, config, max_length, notes)
    del session, feed, masters, loaded, train_rows, stand_in, measure
    gc.collect()
    artifact = Artifact(artifacts.open_artifact(folder / "artifact"), device, config.eval_batch_size)
    scored = evaluate(artifact.model, task, encoded["eval"], title="after", **measuring)
    write_predictions(folder, task, scored)
    result = {
        "schema_version": SCHEMA,
        "task": config.task,
        "technique": technique.name,
        "model": config.model,
        "seed": config.seed,
        "status": "finished",
        "metrics": {"before": before, "after": scored.metrics, "primary": task.primary},
        "cost": {
            "trainable_parameters": learning,
            "total_parameters": total,
            "train_seconds": fitted.seconds,
            "tokens_per_second": fitted.tokens / max(fitted.seconds, 1e-9),
            "peak_memory_bytes": cost.peak_memory(device),
            "artifact_bytes": cost.folder_bytes(folder / "artifact"),
            "predicted_memory_bytes": None,
            "predicted_seconds": None,
        },
        "forgetting": None,
        "stream": None,
        "training": {
            "learning_rate": learning_rate,
            "steps": fitted.steps,
            "tokens": fitted.tokens,
            "dtype": notes["dtype"],
            "max_length": max_length,
            "best_step": fitted.best_step,
            "stopped_early": fitted.stopped_early,
        },
        "provenance": {
            "versions": cost.versions(),
            "hardware": cost.hardware(),
            "rows": roles.describe(),
            "data_sha256": {
                role: rows.sha256
                for role, rows in (("train", roles.train), ("validation", roles.validation), ("eval", roles.eval))
                if rows is not None
            },
            "model_sha256": source.sha256,
            "config_sha256": config_sha256(config),
            "git_commit": cost.git_commit(),
        },
    }
    del artifact
    gc.collect()
    result["verification"] = verify_run(folder)
    write_json(folder / "result.json", result)
    return result


def open_folder(folder: Path, *, overwrite: bool, resume: bool) -> dict[str, Any] | None:
    """Claim the run's folder; returns the result when `resume` finds it finished.

    Raises:
        UserError: a finished or unfinished run is there.
    """
    finished, begun = (folder / "result.json").is_file(), (folder / "config.yaml").is_file()
    if resume:
        if finished:
            say(f"The run in {folder} is finished; nothing to resume.")
            return dict(json.loads((folder / "result.json").read_text(encoding="utf-8")))
        if not begun:
            raise UserError(f"`{folder}` holds no run to resume (no config.yaml).")
        return None
    if (finished or begun) and overwrite:
        for name in ("config.yaml", "metrics.jsonl", "predictions.jsonl", "result.json"):
            (folder / name).unlink(missing_ok=True)
        for name in ("checkpoints", "artifact"):
            shutil.rmtree(folder / name, ignore_errors=True)
    elif finished:
        raise UserError(f"`{folder}` holds a finished run; add --overwrite to replace it, or give another --output.")
    elif begun:
        raise UserError(
            f"`{folder}` holds an unfinished run; go on with `tunesmith resume {folder}`, or add --overwrite to start again."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(f"cannot make the folder `{folder}`: {error.strerror}; give another --output.") from error
    return None


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

    set_verbosity(int(payload.get("verbosity", 0)))
    config = configuration.build(RunConfig, yaml.safe_load(payload["config"]))
    return execute(config, overwrite=bool(payload.get("overwrite")), resume=bool(payload.get("resume")))


def resume_step(folder: Path) -> int:
    """Step of the newest checkpoint, 0 without one."""
    found = sorted((folder / "checkpoints").glob("step-*"))
    return int(found[-1].name.removeprefix("step-")) if found else 0


def quantization_options(config: RunConfig, technique: Any) -> dict[str, Any]:
    """Further loading options; quantised backbones are not there yet."""
    wanted = technique.load_options().get("quantization", config.quantization)
    if wanted != "none":
        raise UserError(f"quantization={wanted} is not available in this version; use none.")
    return {}


def warn_about(roles: Any) -> None:
    """Say what was held out, and what looks odd but does not stop a run."""
    if "by content hash" in roles.origins["eval"]:
        say(f"No --eval given: {len(roles.eval):,} rows ({roles.origins['eval']}) are held out and only measured.")
    for rows in (roles.train, roles.eval):
        texts = rows.table["text"] if "text" in rows.table.column_names else []
        empty = sum(1 for text in texts if isinstance(text, str) and not text.strip())
        if empty:
            warn(f"{rows.source}: {empty} rows have an empty `text`.")


def config_sha256(config: RunConfig) -> str:
    """Hash of everything in a configuration but where its output goes."""
    from tunesmith.cache.store import key_of

    return key_of(**config.model_dump(mode="json", exclude={"output", "report_to"}))


def write_config(folder: Path, config: RunConfig) -> None:
    """config.yaml with absolute paths, so that it runs again from anywhere."""
    plain = config.model_copy(deep=True)
    for name in ("model", "train", "validation", "eval", "output"):
        value = getattr(plain, name)
        if value and not value.startswith("asset:") and Path(value).exists():
            setattr(plain, name, str(Path(value).resolve()))
    write_text(folder / "config.yaml", configuration.dump(plain))


def write_predictions(folder: Path, task: Any, scored: Any) -> None:
    """predictions.jsonl: what the reloaded artifact says of every eval row."""
    import numpy as np

    lines = [
        json.dumps({**task.present(p, s), "raw": np.asarray(s).tolist()}, ensure_ascii=False)
        for p, s in zip(scored.predicted, scored.scores, strict=True)
    ]
    write_text(folder / "predictions.jsonl", "".join(line + "\n" for line in lines))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place, flush it, rename it.

    Raises:
        SaveError: the disk is full or not writable.
    """
    temporary = path.with_name(f".{path.name}.writing")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SaveError(f"cannot write `{path}`: {error.strerror or error}; free some space or give another --output.") from error
