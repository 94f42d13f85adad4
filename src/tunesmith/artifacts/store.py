"""Write an artifact folder and open it again.

artifact/
  tunesmith.json             task, labels, technique and options, base model and its hash, hashes of the files
  README.md                  card with a load snippet
  tokenizer files
  model.safetensors, config.json                   technique `full` or a merged model: opens in plain transformers
  adapter_config.json, adapter_model.safetensors   techniques that peft has: opens in plain peft
  trained.safetensors                              the other techniques: what was trained, head included
  heads.safetensors                                further heads, as HEAD::parameter
  columns.safetensors                              of strategy progressive: every column, and what leads from one to the next
  tasks.safetensors                                of several tasks: what tells their rows apart (`data.task_inference`)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file

from tunesmith import durable, registry, trust
from tunesmith.artifacts.card import card
from tunesmith.artifacts.foreign import describe, is_foreign, saved_config
from tunesmith.cache import store
from tunesmith.data.task_inference import TaskInference
from tunesmith.errors import ArtifactError, UserError, called
from tunesmith.models import quantization as quantized
from tunesmith.models.columns import Columns
from tunesmith.models.heads import Heads
from tunesmith.models.load import Loaded, Source, has_tokenizer, hashed, load_model, load_tokenizer, locate, positions
from tunesmith.seeding import derive
from tunesmith.tasks._base import Task
from tunesmith.techniques._base import Technique, load_tensors

INFO = "tunesmith.json"
CARD = "README.md"
HEADS_FILE = "heads.safetensors"
SCHEMA = 1
NEEDED: dict[str, type] = {
    "task": str, "task_options": dict, "task_state": dict, "technique": str, "technique_options": dict, "format": str, "base_model": dict, "head": list,
    "max_length": int, "trust_remote_code": bool, "seed": int, "files": dict,
}  # fmt: skip
"""Entries of an artifact's description that everything relies on."""


@dataclass
class Reading:
    """A head of a model: the task that reads through it, and the tokens a row is cut to."""

    task: Task
    max_length: int


@dataclass
class Opened:
    """An artifact ready for use. `loaded` and `task` are those of its first head."""

    heads: Heads
    readings: dict[str, Reading]
    technique: Technique
    info: dict[str, Any]
    folder: Path
    inference: TaskInference | None = None

    @property
    def loaded(self) -> Loaded:
        """The model under the first head."""
        return self.heads.first

    @property
    def task(self) -> Task:
        """The task of the first head."""
        return next(iter(self.readings.values())).task


def save(
    folder: Path,
    heads: Heads,
    readings: Mapping[str, Reading],
    technique: Technique,
    config: Origin,
    notes: dict[str, Any],
    inference: TaskInference | None = None,
) -> Path:
    """Write the artifact, whole or not at all.

    Args:
        folder: its final place.
        heads: the models; the first is what the technique exports.
        readings: what reads through each of them, in the same order.
        technique: what was attached.
        config: the run's.
        notes: further entries of tunesmith.json.
        inference: tells rows of its tasks apart, where there are several.

    Raises:
        SaveError: the disk is full or not writable; nothing half-written stays.
    """

    def fill(new: Path) -> None:
        loaded, (first, *others) = heads.first, readings.items()
        task = first[1].task
        technique.export(loaded.backbone, new, loaded.source.path)
        _at_rest(loaded.tokenizer).save_pretrained(new)
        if others:
            further = {name: p.detach().float().cpu().clone() for name, p in heads.further()}
            save_file(further, str(new / HEADS_FILE), metadata={"format": "pt"})
        info = {
            "schema_version": SCHEMA,
            "task": task.name,
            "task_options": task.options.model_dump(mode="json"),
            "task_state": task.state_dict(),
            "technique": technique.name,
            "technique_options": technique.options.model_dump(mode="json"),
            "format": technique.saves,
            "base_model": {"name": loaded.source.name, "path": loaded.source.path, "sha256": loaded.source.sha256},
            "model_class": type(loaded.model).__name__,
            "head": list(loaded.backbone.head_names),
            "head_name": first[0],
            "further_heads": {
                name: {
                    "task": each.task.name,
                    "task_options": each.task.options.model_dump(mode="json"),
                    "task_state": each.task.state_dict(),
                    "max_length": each.max_length,
                }
                for name, each in others
            },
            "max_length": first[1].max_length,
            "trust_remote_code": config.trust_remote_code,
            "quantization": quantized.kind_of(loaded.model),
            "seed": config.seed,
            **notes,
        }
        if heads.columns is not None:
            info["columns"] = heads.columns.save(new)
        if inference is not None:
            info["task_inference"] = inference.save(new)
        (new / CARD).write_text(card(info), encoding="utf-8")
        paths = [p for p in sorted(new.rglob("*")) if p.is_file() and p.name != CARD]
        info["files"] = {p.relative_to(new).as_posix(): store.file_sha256(p) for p in paths}
        info["sha256"] = description_sha256(info)
        (new / INFO).write_text(json.dumps(info, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    advice = f"free some space or give another --output, then run `tunesmith resume {folder.parent}`"
    durable.write_folder(folder, fill, advice)
    return folder


def _at_rest(tokenizer: Any) -> Any:
    """Without the truncation and padding of its last call, which a fast tokenizer keeps and would write down."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
    return tokenizer


def read_info(
    folder: Path, *, task: str | None = None, base: str | None = None, labels: Sequence[str] | None = None
) -> dict[str, Any]:
    """The artifact's description; that of a plain peft folder is made up from its own (`artifacts.foreign`).

    Args:
        folder: an artifact, a finished run, or a plain peft folder.
        task: of a plain peft folder, where its task type is not meant.
        base: of a plain peft folder, where the base that it names is not here.
        labels: of a plain peft folder: names of a classifier's outputs, in their order.

    Raises:
        ArtifactError: there is none.
    """
    folder = folder / "artifact" if (folder / "artifact" / INFO).is_file() else folder
    path = folder / INFO
    if not path.is_file() and is_foreign(folder):
        return {**describe(folder, task=task, base=base, labels=labels), "folder": str(folder)}
    if not path.is_file():
        raise ArtifactError(
            f"`{folder}` is not an artifact (it has no {INFO}, and no adapter_config.json); give the `artifact` folder of a finished run, or a peft folder."
        )
    try:
        info = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"`{path}` is damaged ({error}); train again or restore it from a copy.") from error
    if "sha256" in info and info["sha256"] != description_sha256(info):
        raise ArtifactError(
            f"`{path}` is damaged (its sha256 is not what was saved); restore it from a copy or train again."
        )
    if info.get("schema_version") != SCHEMA:
        raise ArtifactError(
            f"`{path}` has schema_version {info.get('schema_version')}, this tunesmith reads {SCHEMA}; install the version that wrote it."
        )
    _check(info, path)
    info["folder"] = str(folder)
    return info


def _check(info: Mapping[str, Any], path: Path) -> None:
    """Refuse a description that nobody who writes artifacts has written: its hash says that it is whole, not who made it."""
    for name, kind in NEEDED.items():
        if not isinstance(info.get(name), kind):
            raise ArtifactError(
                f"`{path}` is damaged (`{name}` is {called(info.get(name))}); restore it from a copy or train again."
            )
    for name in info["files"]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ArtifactError(
                f"`{path}` names the file `{name}`, which lies outside of the artifact; take one from somewhere you trust."
            )


def description_sha256(info: Mapping[str, Any]) -> str:
    """Of everything else in a description."""
    content = {name: value for name, value in info.items() if name not in ("sha256", "folder")}
    as_read = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def check_files(folder: Path, info: dict[str, Any]) -> None:
    """Compare all files but the card with the hashes written when they were saved.

    Raises:
        ArtifactError: a file is missing or changed.
    """
    for name, sha in info["files"].items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"the artifact `{folder}` lacks `{name}`; restore it from a copy or train again.")
        if store.file_sha256(path) != sha:
            raise ArtifactError(
                f"`{path}` is damaged (its sha256 is not what was saved); restore it from a copy or train again."
            )


class Origin(Protocol):
    """What is needed of a run's configuration."""

    @property
    def seed(self) -> int:
        """What made the run repeatable."""

    @property
    def trust_remote_code(self) -> bool:
        """Whether code of the model folder was run."""


class Base(Protocol):
    """A base that several artifacts stand on (`artifacts.switch`)."""

    source: Source

    def accept(self, info: Mapping[str, Any], source: Source, tokenizer: Any) -> None:
        """Refuse an artifact that was made for another base or tokenizer."""

    def load(self, task: Task, tokenizer: Any) -> Loaded:
        """A model with the task's head whose base shares every tensor."""

    def unshare(self, model: Any) -> None:
        """Give a model copies of its own of what it learned inside the base."""


def open_artifact(
    path: str | Path, *, dtype: torch.dtype = torch.float32, dequantize: bool = False, on: Base | None = None, task: str | None = None,
    base: str | None = None, labels: Sequence[str] | None = None, dropout: float | None = None,
) -> Opened:  # fmt: skip
    """Open an artifact, or a plain peft folder: base model, technique, head, tokenizer, task.

    Args:
        path: its folder.
        dtype: of what is not quantised.
        dequantize: store a quantised base as floating point, so that something can be folded into it.
        on: a base that is open already, in place of one of its own.
        task: of a plain peft folder: what it is for, where its own task type is not meant.
        base: of a plain peft folder: its base model, where the one that it names is not here.
        labels: of a plain peft folder: names of a classifier's outputs, in their order.
        dropout: every rate of the base model, in place of its own.

    Raises:
        ArtifactError: it is damaged, or its base model changed.
    """
    info = read_info(Path(path), task=task, base=base, labels=labels)
    folder = Path(info["folder"])
    if (task or base or labels) and (folder / INFO).is_file():
        raise UserError(
            f"a task, a base and labels are named for plain peft folders; `{folder}` says its own, so leave them out."
        )
    check_files(folder, info)
    readings = readings_of(info)
    first = next(iter(readings))
    technique_class = registry.load("technique", info["technique"])
    technique = technique_class(
        technique_class.Options.model_validate(info["technique_options"]), registry.split_name(info["technique"])[1]
    )
    if info.get("as_saved"):
        technique.given = saved_config(folder)
    asks, seed = bool(info["trust_remote_code"]), int(info["seed"])
    if asks and not trust.allowed():
        raise ArtifactError(
            f"the artifact `{folder}` asks to run code that its base model brings along; add --trust-remote-code (in Python "
            "`with tunesmith.trust.remote_code(True):`) if you trust whoever made it."
        )
    own = Source(str(folder), str(folder), "")
    whole = info["format"] == "model"
    source = own if whole else _base(info, on)
    near = source if on is None else on.source
    tokenizer = load_tokenizer(own if has_tokenizer(folder) else near, trust_remote_code=asks)
    if on is not None:
        on.accept(info, source, tokenizer)

    def opened(task: Task) -> Loaded:
        if on is not None:
            return on.load(task, tokenizer)
        loaded = load_model(
            source, tokenizer, task, dtype=dtype, trust_remote_code=asks, seed=seed, quantization=info.get("quantization", "none"),
            dropout=dropout,
        )  # fmt: skip
        if dequantize:
            quantized.dequantize(loaded.model)
        return loaded

    loaded = opened(readings[first].task)
    if whole:
        made_on = info["base_model"]
        loaded.source = Source(str(made_on["name"]), str(made_on["path"]), str(made_on["sha256"]))
        loaded.backbone.head_names = tuple(info["head"])
    else:
        names = list(loaded.backbone.head_names)
        if info["head"] != names and not (info.get("as_saved") and set(names) <= set(info["head"])):
            raise ArtifactError(
                f"the artifact `{folder}` was trained with the head {info['head']}, this base gives {names}."
            )
        torch.manual_seed(derive(seed, "attach"))
        technique.attach(loaded.backbone)
    if on is not None:
        on.unshare(loaded.model)
    technique.restore(loaded.backbone, folder)
    heads = Heads(first, loaded)
    for name, reading in list(readings.items())[1:]:
        added = heads.place(name, reading.task, partial(opened, reading.task))
        if added is not None:
            technique.join(added.backbone)
    if len(readings) > 1:
        further = dict(heads.further())
        load_tensors(further, load_file(str(folder / HEADS_FILE)), set(further), folder)
    if "columns" in info:
        heads.columns = Columns.load(heads, folder, info["columns"])
    for name, reading in readings.items():
        heads[name].model.eval()
        reading.task.positions = positions(heads[name], technique.extra_positions(loaded.backbone))
    inference = TaskInference.load(folder, info["task_inference"]) if "task_inference" in info else None
    return Opened(heads, readings, technique, info, folder, inference)


def readings_of(info: Mapping[str, Any]) -> dict[str, Reading]:
    """What reads through each head of an artifact, the first one first; no model is opened for it."""
    further = {name: _reading(each) for name, each in info.get("further_heads", {}).items()}
    return {str(info.get("head_name", "")): _reading(info), **further}


def _reading(info: Mapping[str, Any]) -> Reading:
    task_class = registry.load("task", info["task"])
    task = task_class(task_class.Options.model_validate(info["task_options"]))
    task.load_state_dict(info["task_state"])
    return Reading(task, int(info["max_length"]))


def _base(info: dict[str, Any], on: Base | None) -> Source:
    """Where the base is. With one open already nothing is looked for that a folder names: no path here, no hub, no download."""
    base = info["base_model"]
    if on is not None:
        named = Source(str(base["name"]), str(base["path"]), str(base["sha256"]))
        same = named.sha256 == on.source.sha256 and (named.sha256 or named.path == on.source.path)
        return on.source if same else named
    name = base["name"] if str(base["name"]).startswith("asset:") else base["path"]
    source = hashed(locate(name)) if base["sha256"] else locate(name)
    if base["sha256"] and source.sha256 and source.sha256 != base["sha256"]:
        raise ArtifactError(
            f"the artifact was trained on `{base['name']}` with sha256 {base['sha256'][:12]}..., and `{source.path}` now has {source.sha256[:12]}...; "
            "give it the model it was trained on."
        )
    return source
