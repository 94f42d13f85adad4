"""LoRA: a low-rank change beside every frozen weight (Hu et al. 2022, section 4.1).

    x ---> W (frozen, m x n) ---------------(+)---> y = W x + (alpha / r) B A x
      `--> A (r x n) ---> B (m x r) ---------^        r (m + n) parameters a matrix

B starts at zero, so the model starts as it was. `rank_stabilized` scales by alpha / sqrt(r) instead, which keeps
the size of the change independent of the rank (Kalajdzievski 2023). All linear modules are adapted by default
(Dettmers et al. 2023, section 4: needed to match full fine-tuning); `layers` keeps to those of the last N layers.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import nn

from tunesmith.models.backbone import Backbone, dimensions
from tunesmith.techniques._layers import LayerOptions, last_layers
from tunesmith.techniques._peft import PeftTechnique, find_targets


class Options(LayerOptions):
    """Options of LoRA."""

    rank: int = Field(16, ge=1, description="r, the inner width")
    alpha: float = Field(32, gt=0, description="scale of the change is alpha / r")
    dropout: float = Field(0.05, ge=0, lt=1, description="on what enters A")
    targets: list[str] = Field(
        ["all-linear"],
        min_length=1,
        description="roles (all-linear, attention, feed-forward, q, k, v, qkv, o, up, down, state) or module names",
    )
    rank_stabilized: bool = Field(False, description="scale by alpha / sqrt(r)")
    init: Literal["default", "gaussian", "pissa", "olora", "orthogonal"] = Field(
        "default", description="peft's initialisations; pissa and olora change the base weights at the start"
    )


class LoRA(PeftTechnique):
    """Low-rank adaptation through peft."""

    Options = Options
    default_learning_rate = 5e-4
    use_dora = False

    def targets(self, backbone: Backbone) -> dict[str, nn.Module]:
        """The matrices that are adapted, by name."""
        return find_targets(backbone, self.options.targets, last_layers(backbone, self.layers, self.name))

    def peft_config(self, backbone: Backbone) -> Any:
        """Peft's LoraConfig with the backbone's full module names."""
        from peft import LoraConfig

        chosen = self.options
        targets = self.targets(backbone)
        return LoraConfig(
            r=chosen.rank,
            lora_alpha=chosen.alpha,
            lora_dropout=chosen.dropout,
            target_modules=list(targets),
            use_rslora=chosen.rank_stabilized,
            use_dora=self.use_dora,
            init_lora_weights=True if chosen.init == "default" else chosen.init,
            fan_in_fan_out=any(type(m).__name__ == "Conv1D" for m in targets.values()),
        )

    def closed_form_count(self, backbone: Backbone) -> int:
        """Sum of r (m + n) over the adapted matrices."""
        shapes = [dimensions(module) for module in self.targets(backbone).values()]
        return sum(self.options.rank * (n + m) for n, m in shapes)
