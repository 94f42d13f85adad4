"""Who teaches: an artifact of ours, or a model that transformers opens with a trained head for the task.

A teacher is known by a hash before it is opened, so that what it said in an earlier run can be read without opening it. Labels are
matched by name: `positive` of one head is `positive` (or `POSITIVE`) of the other wherever it stands, and a teacher that lacks one
of the student's labels is refused. Labels that only the teacher has are left out of what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tunesmith.cache import store
from tunesmith.data.encode import tokenizer_fingerprint
from tunesmith.errors import ModelError, UserError, unknown
from tunesmith.models.backbone import Backbone
from tunesmith.models.load import hashed, load_model, load_tokenizer, locate, longest_input, pick_max_length
from tunesmith.objectives._base import Ground
from tunesmith.tasks._base import IGNORED, Batch
from tunesmith.tasks._chunked import BeforeHead, nothing_behind

INFO = "tunesmith.json"


@dataclass
class Opened:
    """A teacher with the head that knows a task (a `Reader`)."""

    model: Any
    task: Any
    tokenizer: Any
    max_length: int
    backbone: Backbone
    plain: bool | None = None
    """Whether its logits are known to be what its output layer makes of its states; None: not tried yet."""

    def before_head(self, batch: Batch) -> BeforeHead | None:
        """What its output layer would read on a batch, so that nobody need hold all logits at once; None where they are more than that
        layer's product (tried once, on a row of the batch).
        """
        if self.plain is None:
            asked = (batch["labels"] != IGNORED).any(1).nonzero()[:1, 0]
            if len(asked):
                self.plain = nothing_behind(self.task, self.model, {n: t[asked] for n, t in batch.items()})
        return self.task.before_head(self.model, batch) if self.plain else None

    @property
    def fingerprint(self) -> str:
        """Hash of what its tokenizer does to text."""
        return tokenizer_fingerprint(self.tokenizer)

    @property
    def positions(self) -> int | None:
        """Tokens that it can read; None where nothing bounds it."""
        return getattr(self.task, "positions", None) or longest_input(self.model.config, self.tokenizer)

    @property
    def parameters(self) -> int:
        """All of its parameters; a shared tensor counts once."""
        return sum(p.numel() for p in {id(p): p for p in self.model.parameters()}.values())


@dataclass
class Teacher:
    """A teacher by name; what it is made of is read when it is needed.

    Attributes:
        name: what the user called it.
        kind: `artifact` or `model`.
        sha256: of what it is.
        place: the folder, or hub id.
    """

    name: str
    kind: str
    sha256: str
    place: str
    opened: dict[str, Opened] = field(default_factory=dict)

    def open(self, ground: Ground, part: Any) -> Opened:
        """The teacher under its head for a task of the stage, frozen, in evaluation mode.

        Raises:
            UserError: it has none, or other labels.
        """
        if part.name not in self.opened:
            found = self._artifact(ground, part) if self.kind == "artifact" else self._model(ground, part)
            match_labels(self.name, part.task, found.task)
            for parameter in found.model.parameters():
                parameter.requires_grad_(False)
            found.model.to(ground.device).eval()
            self.opened[part.name] = found
        return self.opened[part.name]

    def _artifact(self, ground: Ground, part: Any) -> Opened:
        opened = ground.open(self.place).opened
        fitting = {name: r for name, r in opened.readings.items() if r.task.name == part.task.name}
        if len(fitting) > 1 and part.name not in fitting:
            labelled = {name: r for name, r in fitting.items() if _knows_labels(part.task, r.task)}
            if len(labelled) > 1:
                raise UserError(
                    f"the teacher `{self.name}` has several heads that know these labels ({', '.join(labelled)}); give the task one of these names "
                    "in a stream (`tasks: [{name: ...}]`), or name a teacher with one head."
                )
            fitting = labelled or fitting
        if fitting:
            name = part.name if part.name in fitting else next(iter(fitting))
            reading, loaded = fitting[name], opened.heads[name]
            return Opened(loaded.model, reading.task, loaded.tokenizer, reading.max_length, loaded.backbone)
        known = ", ".join(dict.fromkeys(reading.task.name for reading in opened.readings.values()))
        raise UserError(
            f"the teacher `{self.name}` was trained for {known} and cannot teach {part.task.name}; name another."
        )

    def _model(self, ground: Ground, part: Any) -> Opened:
        source, config = locate(self.name), ground.config
        task = type(part.task)(part.task.options)
        task.load_state_dict(_state_of(part.task, source.path, config.trust_remote_code))
        tokenizer = load_tokenizer(source, trust_remote_code=config.trust_remote_code)
        loaded = load_model(source, tokenizer, task, trust_remote_code=config.trust_remote_code)
        fresh = [name for name in loaded.backbone.fresh if loaded.backbone.in_head(name)]
        if fresh:
            raise ModelError(
                f"the teacher `{self.name}` has no trained head for {task.name} (`{sorted(fresh)[0]}` is not among its weights); fine-tune it first: "
                f"tunesmith train --model {self.name} --task {task.name} --train ROWS --output runs/teacher, then --teacher runs/teacher."
            )
        length = pick_max_length(None, max(task.default_max_length, part.max_length), loaded)
        return Opened(loaded.model, task, tokenizer, length, loaded.backbone)


def open_whole(teacher: Teacher, task: Any, config: Any, open: Any) -> tuple[Backbone, Any]:
    """A teacher as a plain model with its weights in one place, and its tokenizer.

    Args:
        teacher: not opened yet.
        task: the student's.
        config: the run's.
        open: opens an artifact for use.

    Raises:
        ArtifactError: what was learned cannot be folded into the weights.
    """
    if teacher.kind == "artifact":
        opened = open(teacher.place).opened
        if opened.info["format"] != "model":
            opened.technique.merge(opened.loaded.backbone)
        return opened.loaded.backbone, opened.loaded.tokenizer
    source = locate(teacher.name)
    tokenizer = load_tokenizer(source, trust_remote_code=config.trust_remote_code)
    loaded = load_model(source, tokenizer, task, trust_remote_code=config.trust_remote_code)
    return loaded.backbone, tokenizer


def find(name: str) -> Teacher:
    """A teacher by its name, not opened.

    Raises:
        UserError: nothing is there.
    """
    folder = Path(name).expanduser()
    place = folder / "artifact" if (folder / "artifact" / INFO).is_file() else folder
    if (place / INFO).is_file():
        return Teacher(name, "artifact", store.file_sha256(place / INFO), str(place.resolve()))
    source = locate(name)
    return Teacher(name, "model", hashed(source).sha256, source.path)


def _state_of(task: Any, path: str, trust: bool) -> dict[str, Any]:
    """A task's state as a pretrained model would have learned it: its own labels."""
    state = dict(task.state_dict())
    if "labels" not in state or not state["labels"]:
        return state
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, trust_remote_code=trust)
    names = [str(config.id2label[i]) for i in sorted(config.id2label)]
    state["labels"] = names
    for key, value in (("names", names), ("numeric", False), ("weights", None), ("usual", names[0])):
        if key in state:
            state[key] = value
    return state


def _plain(label: str) -> str:
    """A label as it is compared: transformers calls nameless ones LABEL_0, LABEL_1, ..."""
    return str(label).casefold().removeprefix("label_")


def _knows_labels(student: Any, teacher: Any) -> bool:
    """Whether a head knows every label of the rows, and solves their kind of problem."""
    try:
        match_labels("", student, teacher)
    except UserError:
        return False
    return True


def match_labels(name: str, student: Any, teacher: Any) -> torch.Tensor | None:
    """For each of the student's labels its place among the teacher's; None where tasks have no labels.

    Raises:
        UserError: the teacher lacks one, or solves another kind of problem.
    """
    mine, theirs = getattr(student, "problem", ""), getattr(teacher, "problem", "")
    if mine != theirs:
        raise UserError(
            f"the teacher `{name}` solves a {theirs} problem and the rows are {mine}; name a teacher of the same kind."
        )
    labels: Sequence[str] = getattr(student, "labels", ())
    if not labels:
        return None
    known: dict[str, int] = {}
    for place, label in enumerate(teacher.labels):
        known.setdefault(_plain(label), place)
    exact = {label: place for place, label in enumerate(teacher.labels)}
    for label in labels:
        if label not in exact and _plain(label) not in known:
            raise UserError(
                f"the teacher `{name}` does not know the label `{label}` of the rows: {unknown('label', label, teacher.labels)} Labels are matched by "
                "name; rename them in the rows, or name a teacher that was trained on these."
            )
    return torch.tensor([exact.get(label, known.get(_plain(label), 0)) for label in labels])
