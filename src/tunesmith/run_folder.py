"""The folder of a run, and writing into it without ever leaving a half-written file.

OUTPUT/config.yaml       resolved; running it again gives the same run
OUTPUT/metrics.jsonl     one object a logged step or evaluation
OUTPUT/predictions.jsonl one object an eval row, from the reloaded artifact (of a stream: predictions/TASK.jsonl)
OUTPUT/result.json       scores, costs, provenance; written last
OUTPUT/checkpoints/      resumable states
OUTPUT/artifact/         what evaluate, predict and export take
OUTPUT/distillation/     rows that a teacher wrote
OUTPUT/stages/           of a stream: what each finished stage measured, and what its strategy keeps
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

from tunesmith import config as configuration
from tunesmith import durable
from tunesmith.artifacts.verify import predictions_file
from tunesmith.cache.store import key_of
from tunesmith.config import RunConfig
from tunesmith.console import say
from tunesmith.errors import SaveError, UserError
from tunesmith.location import cache_root
from tunesmith.training import checkpoint


def open_folder(folder: Path, *, overwrite: bool, resume: bool) -> dict[str, Any] | None:
    """Claim the run's folder; returns the result when `resume` finds it finished.

    Raises:
        UserError: a finished or unfinished run is there.
    """
    finished, begun = (folder / "result.json").is_file(), (folder / "config.yaml").is_file()
    if resume:
        if finished:
            say(f"The run in {folder} is finished; nothing to resume.")
            try:
                return dict(json.loads((folder / "result.json").read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                raise UserError(
                    f"`{folder / 'result.json'}` is damaged ({error}); remove it to finish the run again from its last checkpoint."
                ) from error
        if not begun:
            raise UserError(f"`{folder}` holds no run to resume (no config.yaml).")
        return None
    if overwrite:
        pass  # the old run is removed by `clear_folder`, when the new one is known to be able to start
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


DECIDED = "decided.json"
GRACE = 3.0  # seconds: a child of a process that was killed dies a moment later
_held: set[tuple[int, Path]] = set()


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a folder that is there, so that no other process of this machine writes into it; the lock of a process that dies is free.

    Raises:
        UserError: another process holds it.
    """
    from filelock import FileLock, Timeout

    place = folder.resolve()
    mine = (threading.get_ident(), place)
    if mine in _held:  # further out
        yield
        return
    lock = lock_of(place)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock)
        held.acquire(timeout=GRACE)
    except Timeout as error:
        raise UserError(
            f"another process is writing into `{folder}` right now; wait for it, or give another --output."
        ) from error
    except OSError as error:
        raise SaveError(
            f"cannot write `{lock}`: {durable.reason(error)}; set TUNESMITH_CACHE to another folder."
        ) from error
    _held.add(mine)
    try:
        durable.settle(folder / "artifact")
        yield
    finally:
        _held.discard(mine)
        held.release()


def lock_of(folder: Path) -> Path:
    """The file that is locked while a folder is written: in the cache, because it stays (removing it would let two processes hold two of it)."""
    return cache_root() / "locks" / f"{key_of(folder=str(folder.resolve()))}.lock"


def materialise(folder: Path, model: Any, tokenizer: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """Write Python objects into files of the run, so that a resolved configuration can be run again."""
    from tunesmith.data.sources import write_objects

    named: dict[str, Any] = {}
    if model is None:
        pass  # an objective may make it, and the configuration says so if none does
    elif isinstance(model, (str, Path)):
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


def materialise_retain(folder: Path, retain: Any) -> Any:
    """What must not be forgotten, with a file of the run in place of Python objects (rows, or rows under `data`)."""
    from tunesmith.data.sources import write_objects

    rows = retain.get("data") if isinstance(retain, Mapping) else retain
    if rows is None or isinstance(rows, (str, Path)):
        return retain if isinstance(retain, (str, Mapping)) else str(retain)
    written = str(write_objects(rows, folder / "data" / "retain.jsonl"))
    return {**retain, "data": written} if isinstance(retain, Mapping) else written


def materialise_stream(folder: Path, stream: Any) -> Any:
    """A stream whose stages hold Python objects as rows, with files of the run in their place."""
    from tunesmith.data.sources import write_objects

    if not isinstance(stream, Mapping):
        return stream

    def placed(task: Mapping[str, Any], name: str) -> dict[str, Any]:
        found = dict(task)
        for role in ("train", "validation", "eval"):
            if found.get(role) is not None and not isinstance(found[role], (str, Path)):
                found[role] = str(write_objects(found[role], folder / "data" / f"{name}-{role}.jsonl"))
        return found

    stages = []
    for number, stage in enumerate(stream.get("stages") or []):
        tasks = [placed(task, f"{number}-{place}") for place, task in enumerate(stage.get("tasks") or [])]
        stages.append({**placed(stage, str(number)), **({"tasks": tasks} if tasks else {})})
    return {**stream, "stages": stages}


def clear_folder(folder: Path) -> None:
    """Remove an earlier run."""
    for name in ("config.yaml", "metrics.jsonl", "predictions.jsonl", "result.json", "diverged.jsonl"):
        (folder / name).unlink(missing_ok=True)
    for name in ("checkpoints", "artifact", "stages", "predictions", "distillation"):
        shutil.rmtree(folder / name, ignore_errors=True)


def decided(checkpoints: Path) -> dict[str, Any]:
    """What a fit decided by measuring this machine, which must not be decided anew when it is gone on with; nothing if it has not begun."""
    try:
        return dict(json.loads((checkpoints / DECIDED).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def decide(checkpoints: Path, found: Mapping[str, Any]) -> None:
    """Keep that."""
    write_json(checkpoints / DECIDED, dict(found))


def resume_step(checkpoints: Path) -> int:
    """Step of the newest checkpoint that can be read, 0 without one."""
    state = checkpoint.newest(checkpoints)
    return int(state["fit"]["steps"]) if state is not None else 0


def config_sha256(config: RunConfig) -> str:
    """Hash of everything in a configuration that its result depends on.

    What is null is as if it were not there, so that a setting which a later version adds does not make finished runs those of others.
    """
    beside: Any = {"output": True, "report_to": True, "doctor": True, "training": {"plan"}}
    return key_of(**resolved(config).model_dump(mode="json", exclude=beside, exclude_none=True))


def write_config(folder: Path, config: RunConfig) -> None:
    """config.yaml with absolute paths, so that it runs again from anywhere."""
    durable.write(folder / "config.yaml", configuration.dump(resolved(config)))


def resolved(config: RunConfig) -> RunConfig:
    """A copy with the absolute paths of local files."""
    plain = config.model_copy(deep=True)
    places: list[tuple[Any, str]] = [
        (plain, name) for name in ("model", "train", "validation", "eval", "output", "continue_from", "init_adapter")
    ]
    places += [(plain.retain, "data")] if plain.retain else []
    tasks = [task for stage in plain.stream.stages for task in stage.tasks] if plain.stream else []
    places += [(task, name) for task in tasks for name in ("train", "validation", "eval")]
    for owner, name in places:
        setattr(owner, name, _absolute(getattr(owner, name)))
    plain.teacher = [str(_absolute(name)) for name in plain.teacher]
    for task in tasks:
        task.teacher = None if task.teacher is None else [str(_absolute(name)) for name in task.teacher]
    rows = plain.options.get("distillation", {})
    if rows.get("unlabelled"):
        rows["unlabelled"] = _absolute(rows["unlabelled"])
    return plain


def _absolute(value: str | None) -> str | None:
    """A local file or folder by its whole path; anything else as it is."""
    return str(Path(value).resolve()) if value and not value.startswith("asset:") and Path(value).exists() else value


def write_predictions(folder: Path, scored: Any, task: str = "", counts: Sequence[Any] | None = None) -> None:
    """What the reloaded artifact says of every eval row.

    Args:
        folder: of the run.
        scored: its answers.
        task: of a stream.
        counts: what each row adds to the metric (`metrics.counts`).
    """
    lines = [{**answer.shown, "raw": list(answer.numbers)} for answer in scored.answers]
    write_rows(predictions_file(folder, task), lines, counts)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], counts: Sequence[Any] | None) -> None:
    """Write rows as JSON lines, each with its counts."""
    added = repeat({}) if counts is None else ({"counts": each} for each in counts)
    lines = [json.dumps({**row, **more}, ensure_ascii=False) for row, more in zip(rows, added, strict=False)]
    durable.write(path, "".join(line + "\n" for line in lines))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically."""
    durable.write(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
