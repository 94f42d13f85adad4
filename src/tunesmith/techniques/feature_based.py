"""Feature-based: the backbone is frozen and run once; only a head learns on its features.

    text -> frozen backbone (evaluation mode, once) -> pooled features, cached -> head

Since nothing below the head changes, its input is computed once per row and kept on disk; every further epoch,
seed and learning rate costs next to nothing (Peters et al. 2019, "To Tune or Not to Tune?", section 2). `pooling`
says what a sequence head reads: the head's own choice (`native`), the first position (`cls`), the mean over real
positions (`mean`) or the last one (`last`).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from tunesmith.config import Options as BaseOptions
from tunesmith.errors import TechniqueError
from tunesmith.models.backbone import Backbone
from tunesmith.techniques._base import Technique


class Options(BaseOptions):
    """Options of feature-based training."""

    pooling: Literal["auto", "native", "cls", "mean", "last"] = Field(
        "auto", description="what a sequence head reads; auto: mean for encoders, native for the rest"
    )
    cache: bool = Field(True, description="run the backbone once and keep its output")


class FeatureBased(Technique):
    """Frozen backbone, trained head."""

    Options = Options
    default_learning_rate = 1e-2
    starts_as_identity: ClassVar[bool] = False  # pooling changes what the head reads
    cache_boundary: ClassVar[Literal["base"] | None] = "base"

    def attach(self, backbone: Backbone) -> None:
        """Freeze, and pool what leaves the base."""
        backbone.freeze()
        if not backbone.head_names or not any(True for _ in backbone.head_parameters()):
            raise TechniqueError(
                "nothing would learn: the output head of this model shares its weights with the frozen embedding; choose another technique."
            )
        pooling = self.options.pooling
        if pooling == "auto":
            pooling = "mean" if backbone.kind == "encoder" and backbone.reads == "sequence" else "native"
        if pooling != "native" and backbone.reads == "tokens":
            raise TechniqueError(f"feature-based.pooling={pooling} makes one vector a row, and this task's head reads tokens; use native.")
        self.pooling = pooling
        if pooling != "native":
            pool = _Pool(pooling)
            backbone.base.register_forward_pre_hook(pool.remember, with_kwargs=True)
            backbone.base.register_forward_hook(pool, with_kwargs=True)

    def set_training(self, backbone: Backbone) -> None:
        """The backbone stays in evaluation mode: its output must not depend on the step."""
        backbone.model.eval()
        for name in backbone.head_names:
            backbone.model.get_submodule(name).train()

    def closed_form_count(self, backbone: Backbone) -> int:
        """Nothing of the backbone learns."""
        return 0


class _Pool:
    """Hook on the base: every position, and the pooler's output, become the pooled vector."""

    def __init__(self, pooling: str) -> None:
        self.pooling = pooling
        self.mask: torch.Tensor | None = None

    def remember(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        states = output["last_hidden_state"]
        mask = self.mask if self.mask is not None else states.new_ones(states.shape[:2])
        pooled = pool(states, mask, self.pooling)
        output["last_hidden_state"] = pooled[:, None].expand_as(states)
        if output.get("pooler_output") is not None:
            output["pooler_output"] = pooled
        return output


def pool(states: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """[rows, T, d] and [rows, T] to [rows, d]: first, mean or last real position."""
    if pooling == "mean":
        weights = (mask != 0).to(states.dtype)[..., None]
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1)
    real = (mask != 0).long()
    places = torch.arange(mask.shape[1], device=mask.device)
    index = real.argmax(1) if pooling == "cls" else (real * places).argmax(1)
    return states[torch.arange(len(states), device=states.device), index]
