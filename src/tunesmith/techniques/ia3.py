"""IA3: learned vectors that scale keys, values and the feed-forward activations (Liu et al. 2022, section 3.3).

    k' = l_k * k,   v' = l_v * v   (d_out each),     ff' = W_down (l_ff * act)   (d_ff)

The vectors start at one, so the model starts as it was. A fused query-key-value projection is scaled as a whole, and so are
the two maps into the gates of a recurrent layer.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tunesmith.config import Options as BaseOptions
from tunesmith.models.backbone import Backbone, dimensions, role_of
from tunesmith.techniques._peft import PeftTechnique, find_targets


class Options(BaseOptions):
    """Options of IA3."""

    targets: list[str] = Field(
        ["k", "v", "down"], min_length=1, description="roles or module names; `down` is scaled at its input"
    )


class IA3(PeftTechnique):
    """Scaling vectors through peft."""

    Options = Options
    default_learning_rate = 1e-2

    def peft_config(self, backbone: Backbone) -> Any:
        """Peft's IA3Config with the backbone's full module names."""
        from peft import IA3Config

        targets = find_targets(backbone, self.options.targets)
        return IA3Config(
            target_modules=list(targets),
            feedforward_modules=[name for name in targets if role_of(name) == "down"],
            fan_in_fan_out=any(type(m).__name__ == "Conv1D" for m in targets.values()),
        )

    def closed_form_count(self, backbone: Backbone) -> int:
        """Input width of feed-forward outputs, output width of the rest."""
        count = 0
        for name, module in find_targets(backbone, self.options.targets).items():
            n, m = dimensions(module)
            count += n if role_of(name) == "down" else m
        return count
