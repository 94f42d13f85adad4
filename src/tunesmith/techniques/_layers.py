"""Training only the last layers: which they are, what lies below them, and where learning begins.

    embeddings, layer 1 ... L - N          layer L - N + 1 ... L, final norm, pooler       head
    frozen, in evaluation mode       |     what learns is here                              learns
                                 boundary

The lower layers hold what is general, and leaving them as they are costs little where the task is near to what the model has
read (Lee et al. 2019, "What Would Elsa Do?", section 4). Without dropout they give the same states of a row in every epoch,
so that `training.lower_layers` may keep those.
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from tunesmith.config import Options as BaseOptions
from tunesmith.errors import TechniqueError
from tunesmith.models.backbone import Backbone


class LayerOptions(BaseOptions):
    """The option of techniques that can act on the last layers alone."""

    layers: int | None = Field(None, ge=1, description="act on the last N layers only (default: on all)")


def last_layers(backbone: Backbone, count: int | None, technique: str) -> list[tuple[str, nn.Module]]:
    """The last `count` layers with their full names, of an encoder-decoder those of its decoder first; None: all.

    Raises:
        TechniqueError: there are not so many, or none that is known.
    """
    layers = backbone.named_layers()
    if count is None:
        return layers
    kind = type(backbone.model).__name__
    if not layers:
        raise TechniqueError(
            f"{technique}.layers={count}: {kind} has no list of layers that is known; leave {technique}.layers out."
        )
    if count > len(layers):
        raise TechniqueError(
            f"{technique}.layers={count}: {kind} has {len(layers)} layers; give 1 to {len(layers)}, or leave {technique}.layers out."
        )
    return layers[-count:]


def within(name: str, layers: list[tuple[str, nn.Module]]) -> bool:
    """Whether a module's or parameter's name is that of one of the layers, or lies in one."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix, _ in layers)


def learning_from(backbone: Backbone, layers: list[tuple[str, nn.Module]]) -> set[str]:
    """Names of what learns when everything does from some layers on: they, what follows them in the backbone, and the head.

    An output layer that shares its weights with the embedding is as frozen as that is.
    """
    top, begun, found = len(backbone.named_layers()) + 1, False, set()
    for name, _ in backbone.model.named_parameters():
        begun = begun or within(name, layers[:1])
        outside = any(name.startswith(f"{output}.") for output in backbone.output_names)
        follows = begun and backbone.layer_index(name) == top
        if backbone.in_head(name) or outside or within(name, layers) or follows:
            found.add(name)
    return found


def boundary(backbone: Backbone) -> int | None:
    """The lowest layer in which something learns, from 0; None where none is, or something below it learns too."""
    layers = backbone.named_layers()
    lowest = next((i for i, (_, each) in enumerate(layers) if any(p.requires_grad for p in each.parameters())), None)
    if lowest is None:
        return None
    name = layers[lowest][0]
    around = [m for n, m in backbone.base.named_modules(prefix=backbone.base_name) if _is_around(n, name)]
    early = [
        *(p for m in around for p in m.parameters(recurse=False)),
        *(p for m in below(backbone, name) for p in m.parameters()),
    ]
    return None if any(p.requires_grad for p in early) else lowest


def below(backbone: Backbone, layer: str) -> list[nn.Module]:
    """Modules of the backbone that stand before a layer, embeddings included: those registered before it that it is no part of."""
    found = []
    for name, module in backbone.base.named_modules(prefix=backbone.base_name):
        if name == layer:
            break
        if not _is_around(name, layer):
            found.append(module)
    return found


def _is_around(name: str, layer: str) -> bool:
    return not name or layer.startswith(f"{name}.")
