"""Full fine-tuning: every parameter learns.

Option `layer_decay` gives each layer its own rate, lr x decay^(depth from the top), so that the layers nearest
the input, which hold the most general features, move least (Howard & Ruder 2018, ULMFiT, section 3.2,
"discriminative fine-tuning").

Option `layers` lets the last N layers learn, with what follows them and the head; embeddings and lower layers stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from tunesmith.errors import TechniqueError
from tunesmith.models.backbone import Backbone
from tunesmith.models.quantization import is_quantized
from tunesmith.techniques._base import Technique
from tunesmith.techniques._layers import LayerOptions, last_layers, learning_from


class Options(LayerOptions):
    """Options of full fine-tuning."""

    layer_decay: float = Field(1.0, gt=0, le=1, description="learning rate of a layer / that of the layer above it")


class Full(Technique):
    """Everything learns; the artifact is a whole model that opens in plain transformers."""

    Options = Options
    default_learning_rate = 5e-5
    saves: ClassVar[Literal["state", "peft", "model"]] = "model"
    folds: ClassVar[bool] = True

    def attach(self, backbone: Backbone) -> None:
        """Unfreeze everything, or everything from the lowest layer that is to learn on.

        Raises:
            TechniqueError: the weights are stored in few bits, in which no step can be taken, or there are fewer layers.
        """
        if is_quantized(backbone.model):
            raise TechniqueError(
                "full changes the weights themselves, and quantised ones cannot take small steps; use --technique qlora or another that adds "
                "to a frozen backbone, or --quantization none."
            )
        learning = self._learning(backbone)
        for name, parameter in backbone.model.named_parameters():
            parameter.requires_grad_(name in learning)

    def _learning(self, backbone: Backbone) -> set[str]:
        """Names of the parameters that learn."""
        if self.layers is None:
            return {name for name, _ in backbone.model.named_parameters()}
        return learning_from(backbone, last_layers(backbone, self.layers, self.name))

    def join(self, backbone: Backbone) -> None:
        """A further head learns in full, its output layer too."""
        self.attach(backbone)

    def parameter_groups(self, backbone: Backbone, learning_rate: float) -> list[dict[str, Any]]:
        """One group a layer when `layer_decay` is below 1."""
        if self.options.layer_decay == 1.0:
            return super().parameter_groups(backbone, learning_rate)
        top = len(backbone.named_layers()) + 1
        groups: dict[int, list[str]] = {}
        for name, parameter in backbone.model.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(backbone.layer_index(name), []).append(name)
        return [
            {"names": names, "lr": learning_rate * self.options.layer_decay ** (top - depth)}
            for depth, names in sorted(groups.items())
        ]

    def closed_form_count(self, backbone: Backbone) -> int:
        """All of the backbone, or what learns of it."""
        learning = self._learning(backbone)
        return sum(parameter.numel() for name, parameter in backbone.backbone_parameters() if name in learning)

    def export(self, backbone: Backbone, folder: Path, base_path: str) -> None:
        """Write the model as transformers does, in fp32."""
        backbone.model.float().save_pretrained(folder)

    def restore(self, backbone: Backbone, folder: Path, *, without: Collection[str] = ()) -> None:
        """Nothing to load: the model was opened from the artifact itself. What learned learns on in a later stage, and nothing else."""
        self.attach(backbone)
