"""Feature-based: the backbone is frozen and run once; only what reads its features learns.

    text -> frozen backbone (evaluation mode, once) -> features of every layer, cached -> mix -> head

Since nothing of the backbone changes, its features are computed once per row and kept on disk; every further epoch,
seed and learning rate costs next to nothing. `pooling` says what a sequence head reads: the head's own choice
(`native`), the first position (`cls`), the mean over real positions (`mean`) or the last one (`last`). `layers=mix`
learns how much each layer counts, because the last one is rarely the best for a new task:

    feature = gamma * sum_l softmax(w)_l h_l        L + 2 parameters (layers, embeddings, gamma)

Of a language model the output layer learns; where it shares its weights with the embedding it gets a copy of its own (V d
parameters), because nothing would learn otherwise. It has learned already, and a rate for a head that begins at random spoils it: smollm2-135m on 256
instructions, loss 4.84 untouched, 6.41 after 20 steps at 1e-2 and 4.03 at 1e-3.

(Peters et al. 2018, section 3.2, equation 1; Peters et al. 2019, "To Tune or Not to Tune?", section 2.)
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from tunesmith.config import Options as BaseOptions
from tunesmith.errors import ArtifactError, TechniqueError
from tunesmith.models.backbone import Backbone
from tunesmith.techniques._base import Technique

CHILD = "tunesmith_features"


class Options(BaseOptions):
    """Options of feature-based training."""

    pooling: Literal["auto", "native", "cls", "mean", "last"] = Field(
        "auto", description="what a sequence head reads; auto: mean for encoders, native for the rest"
    )
    layers: Literal["auto", "last", "mix"] = Field(
        "auto", description="last layer, or a learned mix of all; auto: mix wherever features are pooled"
    )
    cache: bool = Field(True, description="run the backbone once and keep its features")


class FeatureBased(Technique):
    """Frozen backbone, trained head."""

    Options = Options
    default_learning_rate = 1e-2
    output_layer_learning_rate = 1e-3
    starts_as_identity: ClassVar[bool] = False  # pooling changes what the head reads
    cache_boundary: ClassVar[Literal["base"] | None] = "base"

    def attach(self, backbone: Backbone) -> None:
        """Freeze, and pool what leaves the base."""
        backbone.freeze()
        # A language model's output layer learns here, because nothing else would: its own parameters, not the embedding's.
        if not any(True for _ in backbone.head_parameters()) and not any(p.dim() > 1 for p in self._output(backbone)):
            untie(backbone.model)
        outputs = self._output(backbone)
        for parameter in outputs:
            parameter.requires_grad_(True)
        self.outputs = sum(p.numel() for p in outputs)
        # States of a decoder depend on what it is given, and a model that is its own base cannot be stood in for.
        if not backbone.base_name or (backbone.kind == "encoder-decoder" and not backbone.owns_head):
            self.cache_boundary = None  # type: ignore[misc]
        pooling = self.options.pooling
        if pooling == "auto":
            pooling = "mean" if backbone.kind == "encoder" and backbone.reads == "sequence" else "native"
        if pooling != "native" and backbone.reads == "tokens":
            raise TechniqueError(
                f"feature-based.pooling={pooling} makes one vector a row, and this task's head reads tokens; use native."
            )
        if pooling == "native":
            if self.options.layers == "mix":
                raise TechniqueError(
                    "feature-based.layers=mix needs pooled features; set feature-based.pooling to mean, cls or last."
                )
            return
        mix = self.options.layers != "last"
        self.reader = _Reader(pooling, len(backbone.layers) + 1 if mix else None).to(backbone.embedding.weight.device)
        for name, parameter in backbone.head_parameters():
            if name.startswith(
                f"{backbone.base_name}."
            ):  # a pooler that came without weights: what it gives is replaced
                parameter.requires_grad_(False)
        backbone.base.add_module(CHILD, self.reader)
        self.hooks = [
            backbone.base.register_forward_pre_hook(self.reader.before, with_kwargs=True),
            backbone.base.register_forward_hook(self.reader.after),
        ]

    def take_off_reader(self) -> None:
        """The base gives its own states again, one a position."""
        for hook in getattr(self, "hooks", ()):
            hook.remove()

    def _output(self, backbone: Backbone) -> list[nn.Parameter]:
        places = tuple(f"{name}." for name in backbone.output_names)
        return [p for n, p in backbone.model.named_parameters() if n.startswith(places)]

    def set_training(self, backbone: Backbone) -> None:
        """The backbone stays in evaluation mode: its output must not depend on the step."""
        backbone.model.eval()
        for name in (*backbone.head_names, *backbone.output_names):
            backbone.model.get_submodule(name).train()

    def merge(self, backbone: Backbone) -> None:
        """Nothing to fold where the head reads what it always reads.

        Raises:
            ArtifactError: a learned mix of layers, or pooling of another kind, stands before it.
        """
        if getattr(backbone.base, CHILD, None) is not None:
            raise ArtifactError(
                "feature-based pools features in a way that a plain model has no place for; keep it as an artifact, or train with pooling=native."
            )

    def closed_form_count(self, backbone: Backbone) -> int:
        """One weight a layer, one for the embeddings, one scale; 0 without the mix. A language model's output layer."""
        reader = getattr(backbone.base, CHILD, None)
        return self.outputs + (len(backbone.layers) + 2 if reader is not None and reader.layers else 0)


class _Reader(nn.Module):
    """Turns the base's output into one vector a row; the frozen part (`collect`) apart from the learned one (`combine`)."""

    def __init__(self, pooling: str, layers: int | None) -> None:
        super().__init__()
        self.pooling, self.layers = pooling, layers
        if layers:
            self.weight = nn.Parameter(torch.zeros(layers))
            self.gamma = nn.Parameter(torch.ones(1))
        self.mask: torch.Tensor | None = None
        self.collected: torch.Tensor | None = None

    def before(self, base: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """Remember the mask, and ask for every layer's states."""
        self.mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        if self.layers:
            kwargs["output_hidden_states"] = True
        return args, kwargs

    def after(self, base: nn.Module, args: Any, output: Any) -> Any:
        """Every position, and the pooler's output, become the row's vector."""
        states = output["last_hidden_state"]
        self.collected = self.collect(output)
        pooled = self.combine(self.collected)
        output["last_hidden_state"] = pooled[:, None].expand(-1, states.shape[1], -1)
        if output.get("pooler_output") is not None:
            output["pooler_output"] = pooled
        return output

    def collect(self, output: Any) -> torch.Tensor:
        """Pooled states, [rows, layers or 1, d]."""
        last = output["last_hidden_state"]
        mask = self.mask if self.mask is not None else last.new_ones(last.shape[:2])
        chosen = output["hidden_states"] if self.layers else [last]
        return torch.stack([pool(states, mask, self.pooling) for states in chosen], 1)

    def combine(self, states: torch.Tensor) -> torch.Tensor:
        """[rows, layers or 1, d] to [rows, d]."""
        if not self.layers:
            return states[:, 0]
        return self.gamma * (states * torch.softmax(self.weight, 0)[None, :, None]).sum(1)


def untie(model: nn.Module) -> None:
    """Give the output layer weights of its own, equal to the embedding's so far."""
    output: Any = model.get_output_embeddings()  # type: ignore[operator]
    output.weight = nn.Parameter(output.weight.detach().clone())


def pool(states: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """[rows, T, d] and [rows, T] to [rows, d]: first, mean or last real position."""
    if pooling == "mean":
        weights = (mask != 0).to(states.dtype)[..., None]
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1)
    real = (mask != 0).long()
    places = torch.arange(mask.shape[1], device=mask.device)
    index = real.argmax(1) if pooling == "cls" else (real * places).argmax(1)
    return states[torch.arange(len(states), device=states.device), index]
