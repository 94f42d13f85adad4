"""BitFit: only the bias terms learn (Ben Zaken et al. 2022, section 3).

Every linear map and norm of the backbone keeps its weight and learns its bias: y = W x + b, with b trained. A
model without biases (Llama, Gemma, T5) has nothing to train and is refused.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from tunesmith.config import Options as BaseOptions
from tunesmith.errors import ArtifactError, TechniqueError
from tunesmith.models.backbone import Backbone, dimensions
from tunesmith.techniques._base import Technique


class Options(BaseOptions):
    """Options of BitFit."""

    grow_biases: bool = Field(
        False, description="give bias-free linear modules a zero bias that learns (cannot be exported)"
    )


class BitFit(Technique):
    """Trains the backbone's parameters named `bias`."""

    Options = Options
    default_learning_rate = 1e-3
    folds: ClassVar[bool] = True

    def attach(self, backbone: Backbone) -> None:
        """Freeze everything but biases."""
        backbone.freeze()
        if self.options.grow_biases:
            for module in backbone.linears().values():
                if module.bias is None:
                    weight: Any = module.weight
                    module.bias = nn.Parameter(weight.new_zeros(dimensions(module)[1]))
        biases = [p for n, p in backbone.backbone_parameters() if n.endswith("bias")]
        if not biases:
            raise TechniqueError(
                f"bitfit trains bias terms, and {type(backbone.model).__name__} has none; choose lora or adapter, "
                "or set bitfit.grow_biases=true to add them."
            )
        for parameter in biases:
            parameter.requires_grad_(True)

    def merge(self, backbone: Backbone) -> None:
        """Nothing to fold: the biases are the model's own.

        Raises:
            ArtifactError: they were grown, and a plain model of this kind has no place for them.
        """
        if self.options.grow_biases:
            raise ArtifactError(
                "bitfit.grow_biases added biases that a plain model of this kind would lose; keep it as an adapter."
            )

    def closed_form_count(self, backbone: Backbone) -> int:
        """Sum over modules of the length of their bias."""
        count = 0
        for name, module in backbone.model.named_modules():
            bias = getattr(module, "bias", None)
            if isinstance(bias, nn.Parameter) and not backbone.in_head(f"{name}.bias" if name else "bias"):
                count += bias.numel()
        return count
