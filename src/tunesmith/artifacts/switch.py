"""One base and many adapters: rows of one batch may each have their own, where those are LoRA on linear modules.

y_i = W x_i + (alpha / r) B_a A_a x_i        a: the adapter of row i
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tunesmith import registry
from tunesmith.artifacts.store import INFO, Opened, Reading
from tunesmith.artifacts.use import Artifact, load
from tunesmith.errors import ArtifactError, UserError, unknown
from tunesmith.models.heads import Heads
from tunesmith.models.load import Loaded, load_model, load_tokenizer, locate, pick_max_length, positions
from tunesmith.training.precision import pick_device

PREFIX = "base_model.model."
KINDS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class AdapterBank:
    """A language model and its adapters."""

    def __init__(
        self, model: str, *, device: str = "auto", dtype: str = "float32", quantization: str = "none", trust_remote_code: bool = False
    ) -> None:  # fmt: skip
        self.names: list[str] = []
        self.dtype, self.device = dtype, pick_device(device)
        source = locate(model)
        self.tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
        task_class = registry.load("task", "language-modeling")
        task = task_class(task_class.Options())
        loaded = load_model(
            source,
            self.tokenizer,
            task,
            dtype=KINDS[dtype],
            trust_remote_code=trust_remote_code,
            quantization=quantization,
        )
        task.positions = positions(loaded, 0)
        self._base = self._artifact(loaded, task)
        self.model = loaded.model
        self._artifacts: dict[str, Artifact] = {}
        self._low_rank: dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]] = {}
        self._rows: list[tuple[str, torch.Tensor]] = []
        self._hooked: set[str] = set()

    def _artifact(self, loaded: Loaded, task: Any) -> Artifact:
        reading = Reading(task, pick_max_length(None, task.default_max_length, loaded))
        technique: Any = None
        info: dict[str, Any] = {"task": task.name, "technique": "none", "parts": {}}
        return Artifact(Opened(Heads("", loaded), {"": reading}, technique, info, Path()), self.device)

    def add(self, name: str, folder: str | Path) -> None:
        """Read an adapter."""
        if name in self.names:
            raise UserError(f"there is an adapter `{name}` already; remove it first.")
        folder = Path(folder)
        config = folder / "adapter_config.json"
        if (folder / INFO).is_file():
            found = load(folder, device=str(self.device), dtype=self.dtype)
        elif config.is_file():
            found = self._artifact(self._base.opened.loaded, self._base.task)
        else:
            raise ArtifactError(f"`{folder}` is no adapter; give an artifact or a folder that peft wrote.")
        if config.is_file() and found.task.name in ("chat", "instruction", "language-modeling"):
            content = json.loads(config.read_text())
            if content["peft_type"] == "LORA":
                self._low_rank[name] = self._read(folder, content)
        self._artifacts[name] = found
        self.names.append(name)

    def _read(self, folder: Path, config: dict[str, Any]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        from safetensors.torch import load_file

        tensors = load_file(str(folder / "adapter_model.safetensors"))
        found, modules = {}, dict(self.model.named_modules())
        for key in (key for key in tensors if key.endswith(".lora_A.weight")):
            name = key.removeprefix(PREFIX).removesuffix(".lora_A.weight")
            down = tensors[key].to(self.device, KINDS[self.dtype])
            up = tensors[key.replace("lora_A", "lora_B")].to(self.device, KINDS[self.dtype])
            if name not in modules:
                raise ArtifactError(f"the adapter in `{folder}` does not fit the base: it has no module `{name}`.")
            found[name] = (down, up * (config["lora_alpha"] / config["r"]))
            if name not in self._hooked:
                self._hooked.add(name)
                modules[name].register_forward_hook(self._hook(name))
        return found

    def _hook(self, module: str) -> Any:
        def add(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            for name, places in self._rows:
                pair = self._low_rank[name].get(module)
                if pair is not None:
                    output = output.index_add(0, places, inputs[0][places] @ pair[0].T @ pair[1].T)
            return output

        return add

    def remove(self, name: str) -> None:
        """Forget an adapter."""
        if name not in self.names:
            raise UserError(unknown("adapter", name, self.names))
        self.names.remove(name)
        self._artifacts.pop(name)
        self._low_rank.pop(name, None)

    def select(self, name: str | None) -> Artifact:
        """The base with one adapter, or without."""
        return self._base if name is None else self._artifacts[name]

    def mixes(self, name: str | None) -> bool:
        """Whether rows of this adapter can stand beside rows of others."""
        return name is None or name in self._low_rank

    @contextmanager
    def rows(self, names: Sequence[str | None]) -> Iterator[None]:
        """Inside, row i of a batch goes through the adapter names[i]."""
        places: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            if name is not None:
                places.setdefault(name, []).append(i)
        self._rows = [(name, torch.tensor(each, device=self.device)) for name, each in places.items()]
        try:
            yield
        finally:
            self._rows = []

    def bytes_of(self, name: str) -> int:
        """Bytes of an adapter's own tensors."""
        pairs = self._low_rank.get(name, {}).values()
        return sum(t.numel() * t.element_size() for pair in pairs for t in pair)
