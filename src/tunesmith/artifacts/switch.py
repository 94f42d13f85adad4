"""One base in memory and many adapters on it, of any technique and task.

    base tensors  <--- shared ---  skeleton 1 + LoRA          "reviews"
                  <--- shared ---  skeleton 2 + prefix        "mails"
                  <--- shared ---  skeleton 3 + NER head      "names"

Every adapter has modules of its own that hold the base's tensors, so that hooks, heads and wrapped layers of one are not there for
another: going from one to the next and back is the same to the bit, and costs nothing. What a technique trained inside the base (biases)
is copied first. Memory is the base's and the adapters' own bytes.

Rows of different LoRA adapters of a language model can stand in one batch (`rows`): see `artifacts.mixed`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunesmith import registry, trust
from tunesmith.artifacts.foreign import CONFIG, rewrites_base
from tunesmith.artifacts.mixed import RowAdapters, lora_layers
from tunesmith.artifacts.store import INFO, open_artifact
from tunesmith.artifacts.use import Artifact
from tunesmith.data.encode import tokenizer_fingerprint
from tunesmith.errors import ArtifactError, UserError, unknown
from tunesmith.models.backbone import Backbone
from tunesmith.models.heads import share
from tunesmith.models.load import Loaded, Source, load_model, load_tokenizer, locate, model_class

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DONORS = {"decoder": "language-modeling", "encoder-decoder": "instruction", "encoder": "text-classification"}
"""The task whose class has all parts of a base: the output layer of what writes, the pooler of what reads."""


REWRITES = (
    "began by rewriting the base's weights (init pissa or olora), which others share; merge it into a model of its own."
)


def check_name(name: str) -> str:
    """An adapter's name, which stands in URLs, labels and logs.

    Raises:
        UserError: it holds anything else than letters, digits, dots, dashes and underscores.
    """
    if not NAME.fullmatch(name):
        raise UserError(
            f"`{name[:80]}` cannot be the name of an adapter; use up to 64 letters, digits, dots, dashes and underscores, a letter or digit first."
        )
    return name


class SharedBase:
    """A model whose tensors others hold too."""

    def __init__(
        self, model: str, *, device: torch.device, dtype: torch.dtype, quantization: str, trust_remote_code: bool
    ) -> None:
        self.source = locate(model)
        self.trust = trust_remote_code
        self.tokenizer = load_tokenizer(self.source, trust_remote_code=trust_remote_code)
        self.quantization = quantization
        task = donor_task(self.source, trust_remote_code)
        self.donor = load_model(
            self.source, self.tokenizer, task, dtype=dtype, trust_remote_code=trust_remote_code, quantization=quantization
        )  # fmt: skip
        self.source = self.donor.source
        self.donor.model.to(device)
        for parameter in self.donor.model.parameters():
            parameter.requires_grad_(False)
        self.fingerprint = tokenizer_fingerprint(self.tokenizer, template=False)
        self.values = {id(p): p.data for p in self.donor.model.parameters()}

    def tensors(self) -> list[torch.Tensor]:
        """Everything that is shared."""
        return [*self.donor.model.parameters(), *self.donor.model.buffers()]

    def accept(self, info: Mapping[str, Any], source: Source, tokenizer: Any) -> None:
        """Refuse an artifact that was made for another base, tokenizer or storage.

        Raises:
            ArtifactError: it was.
        """
        place = info["folder"]
        if info["format"] == "model":
            raise ArtifactError(
                f"`{place}` is a whole model and shares nothing with `{self.source.name}`; open it by itself."
            )
        if source.sha256 != self.source.sha256 or (not source.sha256 and source.path != self.source.path):
            raise ArtifactError(
                f"`{place}` was made for `{source.name}` (sha256 {source.sha256[:12] or 'unknown'}), and this base is `{self.source.name}` "
                f"({self.source.sha256[:12] or 'unknown'}); start another bank for it."
            )
        if info.get("quantization", "none") != self.quantization:
            raise ArtifactError(
                f"`{place}` was trained on a base stored as {info.get('quantization', 'none')}, and this one is stored as {self.quantization}; "
                "open the base with the same quantization."
            )
        # In place, too (olora): before it is attached, because nothing could be put back.
        if rewrites_base(Path(place)):
            raise ArtifactError(f"`{place}` {REWRITES}")
        if tokenizer_fingerprint(tokenizer, template=False) != self.fingerprint:
            raise ArtifactError(
                f"`{place}` has another tokenizer than `{self.source.name}`; its tokens would mean other words here."
            )

    def skeleton(self) -> Loaded:
        """The base again: other modules, the same tensors."""
        memo = {id(tensor): tensor for tensor in self.tensors()}
        model = deepcopy(self.donor.model, memo)
        seen = self.donor.backbone
        backbone = Backbone(
            model, reads=seen.reads, fresh=seen.fresh, tokenizer=self.tokenizer, owns_head=seen.owns_head
        )
        return Loaded(model, self.tokenizer, backbone, self.source)

    def load(self, task: Any, tokenizer: Any) -> Loaded:
        """A model with the task's head on a skeleton; a head of its own has no values yet."""
        bones = self.skeleton()
        config = deepcopy(bones.model.config)
        wanted = {**task.config_overrides(), "pad_token_id": tokenizer.pad_token_id}
        for key, value in wanted.items():
            setattr(config, key, value)
        cls = model_class(task.model_class(config), config)
        same = cls._model_mapping[type(config)] if hasattr(cls, "_model_mapping") else type(bones.model)
        if not task.owns_head and type(bones.model) is same:
            loaded = Loaded(bones.model, tokenizer, bones.backbone, self.source)  # its own chat template
        else:
            with torch.device("meta"):
                model = cls.from_config(config, trust_remote_code=self.trust)
            view = Backbone(
                model, reads=task.reads, fresh=bones.backbone.fresh, tokenizer=tokenizer, owns_head=task.owns_head
            )
            for name, _ in list(bones.backbone.base.named_children()):  # a pooler, where the class has none
                if getattr(view.base, name, bones) is None:
                    setattr(bones.backbone.base, name, None)
            share(bones, Loaded(model, tokenizer, view, self.source))
            for name in view.head_names:
                head = model.get_submodule(name)
                if any(p.is_meta for p in head.parameters()):
                    head.to_empty(device=self.tensors()[0].device)
            backbone = Backbone(
                model, reads=task.reads, fresh=bones.backbone.fresh, tokenizer=tokenizer, owns_head=task.owns_head
            )
            backbone.head_names = view.head_names
            loaded = Loaded(model, tokenizer, backbone, self.source)
        left = [n for n, p in loaded.model.named_parameters() if p.is_meta]
        if left:
            raise ArtifactError(
                f"{type(loaded.model).__name__} needs `{left[0]}`, which the shared base does not have; open the artifact by itself."
            )
        loaded.model.eval()
        task.bind(loaded.model, tokenizer, loaded.backbone.kind)
        return loaded

    def unshare(self, model: Any) -> None:
        """Give a model copies of its own of what learns inside the base, and see that attaching left the base as it was.

        Raises:
            ArtifactError: the technique rewrote base weights.
        """
        shared = {id(p): p for p in self.donor.model.parameters()}
        moved = [p for i, p in shared.items() if p.data_ptr() != self.values[i].data_ptr()]
        for parameter in moved:
            parameter.data = self.values[id(parameter)]
        if moved:
            raise ArtifactError(f"this adapter {REWRITES}")
        own: dict[int, nn.Parameter] = {}
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and parameter.requires_grad and id(parameter) in shared:
                    own.setdefault(id(parameter), nn.Parameter(parameter.detach().clone()))
                    module._parameters[name] = own[id(parameter)]
        for parameter in shared.values():
            parameter.requires_grad_(False)


class AdapterBank:
    """One base and many adapters of any technique.

    Example:
        >>> bank = tunesmith.AdapterBank("asset:smollm2-135m")
        >>> bank.add("reviews", "runs/lora/artifact")
        >>> bank.select("reviews").predict([{"text": "a fine film"}])
    """

    def __init__(
        self, model: str, *, device: str = "auto", dtype: str = "float32", quantization: str = "none", trust_remote_code: bool = False
    ) -> None:  # fmt: skip
        from tunesmith.training.precision import pick_device

        kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
        if dtype not in kinds:
            raise UserError(f"dtype `{dtype}` is not known; use one of {', '.join(kinds)}.")
        self.device, self.dtype = pick_device(device), kinds[dtype]
        self.base = SharedBase(
            model, device=self.device, dtype=self.dtype, quantization=quantization, trust_remote_code=trust_remote_code
        )  # fmt: skip
        self._adapters: dict[str, Artifact] = {}
        self._mixed: RowAdapters | None = None

    @property
    def names(self) -> list[str]:
        """Adapters in the order they were added."""
        return list(self._adapters)

    @property
    def tokenizer(self) -> Any:
        """The base's tokenizer."""
        return self.base.tokenizer

    @property
    def writes(self) -> bool:
        """Whether the base is a causal language model."""
        return self.base.donor.backbone.kind == "decoder"

    def add(self, name: str, folder: str | Path) -> None:
        """Open an artifact (or a plain peft folder) on the shared base.

        Raises:
            UserError: the name is taken or could be mistaken for a path.
            ArtifactError: the artifact is damaged or was made for another base, tokenizer or storage.
        """
        check_name(name)
        if name in self._adapters:
            raise UserError(f"there is an adapter `{name}` already; remove it first or take another name.")
        with trust.remote_code(self.base.trust):
            opened = open_artifact(folder, dtype=self.dtype, on=self.base, base=self._base_of(Path(folder)))
        for loaded in opened.heads.loaded.values():
            for parameter in loaded.model.parameters():
                parameter.requires_grad_(False)
                if parameter.is_floating_point() and parameter.dtype != self.dtype:
                    parameter.data = parameter.data.to(self.dtype)
        artifact, layers = Artifact(opened, self.device), lora_layers(opened)
        if self.writes and layers is not None:
            self._rows().add(name, layers)
        self._adapters[name] = artifact

    def _base_of(self, folder: Path) -> str | None:
        """This base, for a plain peft folder that names no model folder here: what it says sends us to no hub and no download.

        Raises:
            ArtifactError: it names another asset.
        """
        config = folder / CONFIG
        if (folder / INFO).is_file() or (folder / "artifact" / INFO).is_file() or not config.is_file():
            return None
        try:
            named = str(json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return None  # whoever opens it says what is wrong
        if named.startswith("asset:") and named != self.base.source.name:
            raise ArtifactError(
                f"`{folder}` was made for `{named}`, and this base is `{self.base.source.name}`; start another bank for it."
            )
        here = not named.startswith("asset:") and (Path(named).expanduser() / "config.json").is_file()
        return None if here else self.base.source.path

    def remove(self, name: str) -> None:
        """Forget an adapter; its memory is free once nothing else holds it.

        Raises:
            UserError: there is none.
        """
        self._known(name)
        del self._adapters[name]
        if self._mixed is not None:
            self._mixed.remove(name)

    def select(self, name: str | None) -> Artifact:
        """An adapter ready for use; None is the base itself as a language model.

        Raises:
            UserError: there is none of this name, or the base is no language model.
        """
        if name is not None:
            return self._known(name)
        from tunesmith.artifacts.store import Opened, Reading
        from tunesmith.models.heads import Heads
        from tunesmith.models.load import pick_max_length, positions
        from tunesmith.techniques._base import create

        if not self.writes:
            raise UserError(
                f"`{self.base.source.name}` has no head of its own that answers; name an adapter ({', '.join(self.names) or 'none yet'})."
            )
        cls = registry.load("task", "instruction")
        task = cls(cls.Options())
        loaded = self.base.load(task, self.tokenizer)
        reading = Reading(task, pick_max_length(None, task.default_max_length, loaded))
        task.positions = positions(loaded, 0)
        info = {"task": task.name, "technique": "none", "folder": self.base.source.path}
        return Artifact(
            Opened(Heads("base", loaded), {"base": reading}, create("full"), info, Path(self.base.source.path)),
            self.device,
        )

    def mixes(self, name: str | None) -> bool:
        """Whether its rows can stand in one batch with those of others: LoRA of a language model, or the base itself."""
        if name is None:
            return self.writes
        self._known(name)
        return self._mixed is not None and name in self._mixed

    @property
    def model(self) -> Any:
        """The causal language model that applies to each row the adapter which `rows` names."""
        return self._rows().model

    @contextmanager
    def rows(self, names: Sequence[str | None]) -> Iterator[None]:
        """Inside, row i of a batch that `model` reads has the adapter `names[i]` (None: none).

        Raises:
            UserError: an adapter is not there, or its rows cannot be mixed.
        """
        for name in {n for n in names if n is not None}:
            if not self.mixes(name):
                raise UserError(f"rows of `{name}` cannot be mixed with others; use select(`{name}`).")
        with self._rows().rows(names):
            yield

    def bytes_of(self, name: str) -> int:
        """Bytes of what an adapter adds to the base."""
        shared = {id(t) for t in self.base.tensors()}
        opened = self._known(name).opened
        tensors = {
            id(t): t for each in opened.heads.loaded.values() for t in (*each.model.parameters(), *each.model.buffers())
        }
        return sum(t.numel() * t.element_size() for i, t in tensors.items() if i not in shared)

    def _known(self, name: str) -> Artifact:
        if name not in self._adapters:
            raise UserError(unknown("adapter", name, self.names or ["(none)"]))
        return self._adapters[name]

    def _rows(self) -> RowAdapters:
        if not self.writes:
            raise UserError(f"rows can be mixed on causal language models only, and `{self.base.source.name}` is none.")
        if self._mixed is None:
            self._mixed = RowAdapters(self.base.skeleton().model.eval())
        return self._mixed


def donor_task(source: Source, trust_remote_code: bool) -> Any:
    """A task whose model has every part of the base."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    import tunesmith.models.recurrent  # noqa: F401  (registers its configuration)

    config = AutoConfig.from_pretrained(source.path, trust_remote_code=trust_remote_code)
    writes = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
    kind = "decoder" if writes or getattr(config, "is_decoder", False) else "encoder"
    if getattr(config, "is_encoder_decoder", False):
        kind = "encoder-decoder"
    cls = registry.load("task", DONORS[kind])
    task = cls(cls.Options())
    if kind == "encoder":
        task.load_state_dict({"problem": "single-label", "labels": ["0", "1"], "numeric": True, "weights": None})
    return task
