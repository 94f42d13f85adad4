"""A run on one page: for every stage of its stream, data -> task + head -> technique -> fit -> artifact -> evaluate.

A plain run is a stream of one stage. `history` goes through the stages, `stage` learns one, `outcome` makes numbers of
them, `run_folder` says what a run leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tunesmith import config as configuration
from tunesmith import trust
from tunesmith.cache.store import nothing_left
from tunesmith.config import RunConfig
from tunesmith.console import quiet_libraries, set_verbosity
from tunesmith.errors import Interrupted, TunesmithError, UserError
from tunesmith.history import History
from tunesmith.inputs import sha256_of_inputs
from tunesmith.run_folder import (
    claimed,
    config_sha256,
    materialise,
    materialise_retain,
    materialise_stream,
    open_folder,
    write_json,
)

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
    model: Any = None,
    *,
    tokenizer: Any = None,
    train: Any = None,
    validation: Any = None,
    eval: Any = None,
    teacher: Any = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> RunResult:
    """Train one model with one technique and measure it.

    Args:
        model: folder, GGUF file, hub id, `asset:NAME`, or a transformers model object.
        tokenizer: needed with a model object.
        train: a file, hub id or asset, or a list of dicts, a DataFrame, a `datasets.Dataset`; none with `stream=`, whose stages name
            theirs in any of these forms.
        validation: rows that choices are made on, in any of those forms.
        eval: rows that are only measured; without it 10 % of `train` are held out.
        teacher: of distillation: an artifact, a run, a model folder, a hub id or `asset:NAME`, or a list of them.
        output: the run's folder.
        overwrite: replace a finished run there.
        **settings: any setting of the command line (`technique="lora"`, `epochs=1`, `lora={"rank": 8}`).
    """
    own = Path(output or default_output({**settings, "model": model if isinstance(model, str) else None}))
    with _together(settings.get("device", "auto"), own) as (_, folder), nothing_left(folder):
        open_folder(folder, overwrite=overwrite, resume=False)  # before anything in it is replaced
        with claimed(folder):
            named = teacher if isinstance(teacher, (list, tuple)) else [] if teacher is None else [teacher]
            raw = {
                **settings,
                **({"teacher": [str(getattr(each, "artifact", each)) for each in named]} if named else {}),
                **materialise(folder, model, tokenizer, {"train": train, "validation": validation, "eval": eval}),
                **(
                    {"retain": materialise_retain(folder, settings["retain"])}
                    if settings.get("retain") is not None
                    else {}
                ),
                **({"stream": materialise_stream(folder, settings["stream"])} if settings.get("stream") else {}),
            }
            resolved = configuration.build(RunConfig, {**raw, "output": str(folder)})
            return RunResult(own, execute(resolved, overwrite=overwrite))


def default_output(settings: Mapping[str, Any]) -> str:
    """runs/<technique>-<seed>, with what cannot stand in a file name replaced."""
    chosen = settings.get("technique") or configuration.default_technique(settings.get("model"))
    technique = str(chosen).replace(":", "-").lower()
    return f"runs/{technique}-{settings.get('seed', 0)}"


def execute(
    config: RunConfig, *, overwrite: bool = False, resume: bool = False, inside: bool = False, verified: bool = True
) -> dict[str, Any]:
    """Carry out one run and return its result.

    Args:
        config: what to do.
        overwrite: replace a finished run there.
        resume: go on where it was stopped.
        inside: it is part of another run, whose peak memory includes this one's.
        verified: score the artifact again in a process of its own; not worth it where only the numbers are kept.

    Raises:
        TunesmithError: what went wrong, in a sentence.
    """
    own = Path(config.output or default_output(config.model_dump()))
    if inside:
        config.output = str(own)
        with nothing_left(own):
            return _execute(config, own, overwrite=overwrite, resume=resume, inside=True, verified=verified)
    with _together(config.device, own) as (group, folder):
        config.output = str(folder)
        group.shards = group.size > 1 and (group.shards or config.training.shard)
        if not group.first:
            return _follow(config, folder, resume=resume)
        with nothing_left(folder):
            result = _execute(config, folder, overwrite=overwrite, resume=resume, inside=False, verified=verified)
        group.end(result)
        return result


@contextmanager
def _together(device: str, folder: Path) -> Iterator[tuple[Any, Path]]:
    """The processes of a run, if a launcher started several, and where this one writes."""
    from tunesmith.training.group import folder_of, joined

    with joined(device) as group, folder_of(group, folder) as place:
        yield group, place


def _refuse(config: RunConfig, history: History) -> None:
    """What one process alone can do.

    Raises:
        UserError: several were started for it.
    """
    from tunesmith.training.group import current

    if current().size == 1:
        return
    for name, given in (
        ("objective", config.objective != "supervised"),
        ("strategy", config.strategy not in ("none", "joint")),
    ):
        if given:
            raise UserError(f"{name} {getattr(config, name)} works in one process; start this run without a launcher.")
    if len(history.stages) > 1 or config.continue_from:
        raise UserError(
            "stages one after the other are learned in one process; start this run without a launcher, or learn them together with --strategy joint."
        )


def _follow(config: RunConfig, folder: Path, *, resume: bool) -> dict[str, Any]:
    """Take part in the steps of a run that another process carries out; returns what it found there."""
    from tunesmith.training.group import Over, current

    quiet_libraries()
    set_verbosity(-1)
    config = config.model_copy(update={"doctor": False, "report_to": [], "retain": None})
    try:
        with trust.remote_code(config.trust_remote_code):
            history = History.begin(config, folder, resume=resume)
            while current().same(lambda: False):
                history.learn_next(resume=resume)
            del history  # and the model with it
            while True:  # until the run is over
                current().meet()
    except Over as over:
        return dict(over.result)


def _execute(
    config: RunConfig, folder: Path, *, overwrite: bool, resume: bool, inside: bool, verified: bool
) -> dict[str, Any]:
    done = open_folder(folder, overwrite=overwrite, resume=resume)
    if done is not None:
        return done
    try:
        with claimed(folder):
            done = open_folder(folder, overwrite=overwrite, resume=resume)  # nobody else can finish it any more
            with trust.remote_code(config.trust_remote_code):
                if done is not None:
                    return done
                return _carry_out(config, folder, resume=resume, inside=inside, verified=verified)
    except (KeyboardInterrupt, TunesmithError) as error:
        stopped = isinstance(error, KeyboardInterrupt) or error.exit_code == Interrupted.exit_code
        if inside or not stopped or not (folder / "config.yaml").is_file():
            raise
        saved = str(error) if isinstance(error, Interrupted) else "interrupted"
        raise Interrupted(f"{saved}; go on with: tunesmith resume {folder}") from error


def _carry_out(config: RunConfig, folder: Path, *, resume: bool, inside: bool, verified: bool) -> dict[str, Any]:
    quiet_libraries()
    from tunesmith.artifacts.verify import verify_run
    from tunesmith.evaluation import cost
    from tunesmith.training.group import current

    inputs = sha256_of_inputs(config)
    history = History.begin(config, folder, resume=resume, carry_out=partial(execute, inside=True))
    if not inside:
        cost.forget_peak(history.device)
        _refuse(config, history)
    while current().same(lambda: history.next is not None):
        history.learn_next(resume=resume)
    verification, found = verify_run(folder) if verified else None, history.outcome
    result = {
        "schema_version": SCHEMA,
        "task": found.task,
        "technique": found.technique,
        "model": config.model,
        "seed": config.seed,
        "status": "finished",
        "metrics": found.metrics(),
        "cost": {
            **found.cost(),
            "peak_memory_bytes": cost.peak_memory(history.device),
            "artifact_bytes": cost.folder_bytes(folder / "artifact"),
            **found.predicted(),
        },
        "plan": found.plan(),
        "forgetting": found.forgetting(),
        "stream": found.stream(),
        **found.objective(),
        "training": found.training(),
        "verification": verification,
        "provenance": {
            "versions": cost.versions(),
            "hardware": cost.hardware(),
            **found.provenance(),
            "inputs_sha256": inputs,
            "config_sha256": config_sha256(config),
            "git_commit": cost.git_commit(),
        },
    }
    write_json(folder / "result.json", result)
    return result


def resume(folder: str | Path) -> dict[str, Any]:
    """Go on with an unfinished run from its newest checkpoint (from the start, if it has none)."""
    path = Path(folder)
    if not (path / "config.yaml").is_file():
        raise UserError(f"`{folder}` holds no run to resume (no config.yaml).")
    config = configuration.build(RunConfig, configuration.read_file(path / "config.yaml"))
    config.output = str(path)
    return execute(config, resume=True)


def execute_payload(payload: dict[str, Any]) -> dict[str, Any]:
    """`execute` for another process: {"config": YAML text, "overwrite", "resume", "verified", "verbosity"}."""
    import yaml

    from tunesmith.console import set_verbosity

    set_verbosity(int(payload.get("verbosity", 0)), nested=True)
    config = configuration.build(RunConfig, yaml.safe_load(payload["config"]))
    wanted = {name: bool(payload[name]) for name in ("overwrite", "resume", "verified") if name in payload}
    return execute(config, **wanted)
