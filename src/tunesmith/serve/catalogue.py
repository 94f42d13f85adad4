"""What the server has: the base model and its adapters, by the names that clients use, and which folders they may load from."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.artifacts.store import INFO, read_info
from tunesmith.errors import ArtifactError, unknown
from tunesmith.models.load import longest_input
from tunesmith.serve.refusals import Refused
from tunesmith.tasks import _template as template

WEIGHTS = ("adapter_model.safetensors", "model.safetensors")
TALKS = ("chat", "instruction", "language-modeling")
"""Tasks whose adapters a message can be sent to; what others read is a row."""
TOKENISING = threading.Lock()
"""Held while a tokenizer reads text: it keeps settings (truncation) that two threads must not change at a time."""


@dataclass(frozen=True)
class Served:
    """A name that clients can ask.

    Attributes:
        id: the name.
        adapter: of the bank; None for the base itself.
        tokenizer: its own.
        task: what it was trained for; None of a base that only reads.
        frame: what a prompt of its training stood in: `chat`, a frame of instructions (`tasks.instruction`), or the task whose rows
            make it.
        writes: whether it continues text.
        room: tokens that it can hold; None where nothing bounds it.
        vocabulary: ids that it knows are below this.
        ends: tokens that end a text.
        chat_ends: tokens that end a turn.
        created: seconds since 1970.
    """

    id: str
    adapter: str | None
    tokenizer: Any
    task: Any
    frame: str
    writes: bool
    room: int | None
    vocabulary: int
    ends: frozenset[int]
    chat_ends: frozenset[int]
    created: int = field(default_factory=lambda: int(time.time()))


def describe(bank: Any, adapter: str | None, name: str) -> Served:
    """What a client needs to know of an adapter, or of the base; runs where the model may be touched."""
    if adapter is None and not bank.writes:
        return _reader(bank, name)
    artifact = bank.select(adapter)
    model, tokenizer, task = artifact.model, artifact.tokenizer, artifact.task
    backbone = artifact.opened.loaded.backbone
    writes = not task.owns_head and backbone.kind != "encoder" and hasattr(model, "generate")
    # What frame the rows of a base or of a plain peft folder stood in is not known: a chat template is what people expect.
    ours = adapter is not None and (artifact.opened.folder / INFO).is_file()
    frame = getattr(task, "frame", "chat") if ours else "chat"
    frame = task.name if ours and task.name not in TALKS else frame
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = [tokenizer.eos_token_id, *(named if isinstance(named, list) else [named]), *getattr(task, "stops", [])]
    ends = frozenset(token for token in listed if token is not None)
    chat_ends = ends
    if writes:
        template.ensure_template(tokenizer)
        end = template.end_of_turn(tokenizer)
        chat_ends |= {end} if end is not None else set()
    room = task.positions if task.positions is not None else longest_input(model.config, tokenizer)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    tokenizer("a")  # settles its settings before others use it
    return Served(name, adapter, tokenizer, task, frame, writes, room, vocabulary, ends, chat_ends)


def _reader(bank: Any, name: str) -> Served:
    """A base without an output layer, which gives vectors."""
    model, none = bank.base.donor.model, frozenset[int]()
    room, vocabulary = longest_input(model.config, bank.tokenizer), model.get_input_embeddings().weight.shape[0]
    return Served(name, None, bank.tokenizer, None, "", False, room, vocabulary, none, none)


class Catalogue:
    """Names that can be asked; those that are leaving cannot any more."""

    def __init__(self, base: Served, aliases: tuple[str, ...] = ()) -> None:
        self._served = {base.id: base}
        self.base, self.aliases = base, aliases

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())

    def __contains__(self, name: str) -> bool:
        return name in self._served or name in self.aliases

    def add(self, served: Served) -> None:
        """Make a name known."""
        self._served[served.id] = served

    def find(self, name: str) -> Served:
        """What a client means by `model`.

        Raises:
            Refused: 404, with the names that there are.
        """
        if name in self.aliases:
            return self.base
        if name not in self._served:
            raise Refused(404, unknown("model", name[:80], self._served), "model", "model_not_found")
        return self._served[name]

    def withdraw(self, name: str) -> Served:
        """Forget an adapter's name.

        Raises:
            Refused: there is no such adapter.
        """
        found = self.find(name)
        if found.adapter is None:
            raise Refused(
                400, f"`{name}` is the base model and stays; unload an adapter.", "lora_name", "invalid_value"
            )
        return self._served.pop(name)


def base_name(model: str) -> str:
    """What clients call the base model: the last part of its path, or what stands behind `asset:`."""
    last = Path(model.removeprefix("asset:")).name.removesuffix(".gguf")
    cleaned = re.sub(r"[^A-Za-z0-9._-]", "-", last).strip(".-_")[:64]
    return cleaned or "base"


def inside(root: Path | None, path: str) -> Path:
    """The folder that a client asks to load, which must lie inside the one that the server allows.

    Args:
        root: the folder of `--allow-adapter-root`; None where loading is off.
        path: absolute, or counted from the root.

    Raises:
        Refused: loading is off, or the folder, or a file of it, lies elsewhere once links are followed.
    """
    if root is None:
        raise Refused(
            403, "loading adapters is off; start the server with --allow-adapter-root DIR.", code="loading_is_off"
        )
    outside = Refused(
        400,
        "`lora_path` is no folder inside the server's --allow-adapter-root; give one.",
        "lora_path",
        "invalid_value",
    )
    if "\0" in path:
        raise outside
    try:
        folder = (root / path).resolve(strict=True)
        allowed = root.resolve(strict=True)
        if not folder.is_dir() or not folder.is_relative_to(allowed) or folder == allowed:
            raise outside
        folder = folder / "artifact" if (folder / "artifact" / INFO).is_file() else folder
        if any(not file.resolve().is_relative_to(allowed) for file in (folder, *folder.iterdir())):
            raise outside
    except (OSError, RuntimeError, ValueError) as error:
        raise outside from error
    return folder


def check_folder(folder: Path, trust_remote_code: bool) -> None:
    """Refuse an adapter that would run code of its own.

    Raises:
        ArtifactError: it asks for its own code, or holds pickled weights only.
    """
    if (folder / INFO).is_file() or (folder / "artifact" / INFO).is_file():
        if read_info(folder).get("trust_remote_code") and not trust_remote_code:
            raise ArtifactError(
                f"the artifact `{folder}` asks to run code that its model brings along; start the server with --trust-remote-code if you "
                "trust it."
            )
    elif folder.is_dir() and not any((folder / name).is_file() for name in WEIGHTS):
        raise ArtifactError(
            f"the folder `{folder}` holds no .safetensors weights; give an artifact, or an adapter that peft saved as safetensors."
        )
