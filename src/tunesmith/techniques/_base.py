"""The contract of a technique. Every hook has a default that does nothing.

    load_options -> attach -> (training) -> export -> restore
                                  |-> merge

A technique acts on the backbone only. It freezes what must not learn, adds what it needs, and leaves hidden
states aligned with the caller's tokens, so that it works under every head. The head always learns: it belongs
to the task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from tunesmith import registry
from tunesmith.config import Options
from tunesmith.errors import ArtifactError
from tunesmith.models.backbone import BASE_PARTS, Backbone
from tunesmith.techniques._layers import LayerOptions, below, last_layers

STATE_FILE = "trained.safetensors"


class Technique(ABC):
    """Which parameters learn, and what is saved of them."""

    family: ClassVar[str] = "technique"
    Options: ClassVar[type[Options]] = Options

    default_learning_rate: ClassVar[float]
    output_layer_learning_rate: ClassVar[float | None] = None
    """The default where a language model's own output layer learns, if that is another."""
    starts_as_identity: ClassVar[bool] = True
    """Whether the attached model computes what the untouched one does before the first step."""
    saves: ClassVar[Literal["state", "peft", "model"]] = "state"
    """state: our own file of trained tensors; peft: a folder that peft opens; model: a whole model folder."""
    folds: ClassVar[bool] = False
    """Whether what it learned with its defaults can be merged, so that a plain model remains and an answer takes no longer than the base's own."""
    cache_boundary: ClassVar[Literal["base"] | None] = None
    """What may be computed once and kept: the base's output when nothing below the head learns."""
    variant_of: ClassVar[str | None] = None
    """Another technique that this one is, with the base stored otherwise: a comparison has it only where it is named."""
    reader: Any = None
    """With a cache boundary: what turns cached states into what the head reads (`collected`, `combine`), if anything."""

    def __init__(self, options: Any, variant: str | None = None) -> None:
        self.options = options
        self.variant = variant

    @property
    def name(self) -> str:
        """The registry name."""
        stem = type(self).__module__.rsplit(".", 1)[-1].replace("_", "-")
        return f"{stem}:{self.variant}" if self.variant else stem

    @property
    def layers(self) -> int | None:
        """How many of the last layers it acts on, where that is an option and set; None: all."""
        return self.options.layers if isinstance(self.options, LayerOptions) else None

    def load_options(self) -> dict[str, Any]:
        """What must be known before the model is loaded (`{"quantization": "nf4"}`)."""
        return {}

    def extra_positions(self, backbone: Backbone) -> int:
        """Positions of the model's input that the technique takes for itself (a soft prompt)."""
        return 0

    @abstractmethod
    def attach(self, backbone: Backbone) -> None:
        """Freeze and add; afterwards exactly the parameters that learn require gradients.

        Raises:
            TechniqueError: the technique makes no sense on this model.
        """

    def join(self, backbone: Backbone) -> None:
        """A further head on the base that the technique was attached to: what is outside the base learns if it is a head."""
        inside = {id(p) for p in backbone.base.parameters()} if backbone.base_name else set()
        for name, parameter in backbone.model.named_parameters():
            if id(parameter) not in inside and not name.startswith(tuple(f"{part}." for part in BASE_PARTS)):
                parameter.requires_grad_(backbone.in_head(name))

    def take_off_reader(self) -> None:  # noqa: B027
        """Take off what only the trained head reads the base's output through, so that another head sees the base itself."""

    def parameter_groups(self, backbone: Backbone, learning_rate: float) -> list[dict[str, Any]]:
        """Optimiser groups as {"names", "lr"}: all learning parameters at one rate by default."""
        names = [name for name, parameter in backbone.model.named_parameters() if parameter.requires_grad]
        return [{"names": names, "lr": learning_rate}]

    def set_training(self, backbone: Backbone) -> None:
        """Put modules into training mode, those below the layers that it acts on into evaluation mode: they do not learn."""
        backbone.model.train()
        if self.layers is not None:
            for module in below(backbone, last_layers(backbone, self.layers, self.name)[0][0]):
                module.eval()

    @abstractmethod
    def closed_form_count(self, backbone: Backbone) -> int:
        """How many backbone parameters learn, from a formula (the head is counted apart)."""

    def merge(self, backbone: Backbone) -> None:
        """Fold what was learned into the base weights and take the technique off."""
        raise ArtifactError(f"`{self.name}` cannot be folded into the base weights; keep it as an adapter.")

    def state(self, backbone: Backbone) -> dict[str, torch.Tensor]:
        """Everything that was trained, head included, by the name `restore` expects."""
        return {n: p.detach().contiguous() for n, p in backbone.model.named_parameters() if p.requires_grad}

    def export(self, backbone: Backbone, folder: Path, base_path: str) -> None:
        """Write what was trained (head included) into an artifact folder."""
        from safetensors.torch import save_file

        state = {name: tensor.float().cpu().clone() for name, tensor in self.state(backbone).items()}
        save_file(state, str(folder / STATE_FILE), metadata={"format": "pt"})

    def restore(self, backbone: Backbone, folder: Path, *, without: Collection[str] = ()) -> None:
        """Load what `export` wrote into an attached model.

        Args:
            backbone: attached.
            folder: what was written.
            without: names of head modules whose saved tensors are left aside; the model's own head then stays as it is.

        Raises:
            ArtifactError: a tensor is missing, left over or of another shape.
        """
        from safetensors.torch import load_file

        saved = load_file(str(folder / STATE_FILE))
        own = dict(backbone.model.named_parameters())
        wanted = {name for name, parameter in own.items() if parameter.requires_grad}
        if without:
            saved = {name: tensor for name, tensor in saved.items() if not inside(name, without)}
            wanted = {name for name in wanted if not backbone.in_head(name)}
        load_tensors(own, saved, wanted, folder)


def inside(name: str, modules: Collection[str]) -> bool:
    """Whether a parameter's name lies in one of some modules."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def load_tensors(own: dict[str, nn.Parameter], saved: dict[str, torch.Tensor], wanted: set[str], folder: Path) -> None:
    """Copy saved tensors into parameters; every wanted name must be there with its shape.

    Raises:
        ArtifactError: something is missing, left over or of another shape.
    """
    missing, spare = sorted(wanted - saved.keys()), sorted(saved.keys() - own.keys())
    if missing or spare:
        what = f"lacks `{missing[0]}`" if missing else f"holds `{spare[0]}`, which the model does not have"
        raise ArtifactError(f"the artifact `{folder}` {what}; it was made for another model or is damaged.")
    with torch.no_grad():
        for name, tensor in saved.items():
            if own[name].shape != tensor.shape:
                raise ArtifactError(
                    f"the artifact `{folder}`: `{name}` has shape {tuple(tensor.shape)} where the model has {tuple(own[name].shape)}."
                )
            own[name].copy_(tensor)


def create(name: str, options: dict[str, Any] | None = None) -> Technique:
    """A technique by registry name with checked options."""
    cls = registry.load("technique", name)
    return cls(cls.Options.model_validate(options or {}), registry.split_name(name)[1])
