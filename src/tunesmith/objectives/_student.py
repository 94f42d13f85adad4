"""A student that is its teacher with layers dropped (Sanh et al. 2019, section 3; Sajjad et al. 2023, "alternate dropping").

    teacher   1 2 3 4 5 6        distillation.student_layers=3   ->  1 4 6     evenly spread, the first and the last among them
                                 distillation.student_layers=[1, 2, 6]        these

The remaining layers keep their weights, as do embeddings and head, so a student starts from what its teacher knows. It is written as a
model folder of the run, and used like any other model from then on.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tunesmith import durable
from tunesmith.errors import ModelError, UserError
from tunesmith.models.backbone import Backbone
from tunesmith.models.load import Source, weights_sha256

DEPTHS = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "n_layers",
    "encoder_layers",
    "decoder_layers",
    "num_decoder_layers",
)
NOTE = "student.json"


def evenly(count: int, total: int) -> list[int]:
    """Some of the layers 1 to `total`, evenly spread, the first and the last among them."""
    if count == 1:
        return [1]
    return [1 + round(i * (total - 1) / (count - 1)) for i in range(count)]


def chosen(layers: int | Sequence[int], total: int) -> list[int]:
    """The layers that stay, counted from 1.

    Raises:
        UserError: the stack has not that many.
    """
    found = evenly(layers, total) if isinstance(layers, int) else sorted(set(map(int, layers)))
    if not found or len(found) > total or not all(1 <= layer <= total for layer in found):
        raise UserError(
            f"distillation.student_layers: the teacher has the layers 1 to {total} in a stack, got {layers}."
        )
    return found


def shorten(backbone: Backbone, layers: int | Sequence[int]) -> list[list[int]]:
    """Drop layers of a model, in place; returns those that stayed, for every stack.

    Raises:
        ModelError: its configuration does not say how many layers it has.
    """
    model = backbone.model
    stacks: dict[str, int] = {}
    for name, _ in backbone.named_layers():
        stacks.setdefault(name.rpartition(".")[0], 0)
        stacks[name.rpartition(".")[0]] += 1
    config = model.config
    if hasattr(config, "encoder") and hasattr(config, "decoder"):
        raise ModelError(f"layers of a {config.model_type} cannot be dropped; give a student with --model.")
    kept = {place: chosen(layers, count) for place, count in stacks.items()}
    for place, stay in kept.items():
        old = model.get_submodule(place)
        model.set_submodule(place, torch.nn.ModuleList(old[i - 1] for i in stay))
    for name in DEPTHS:
        value = config.__dict__.get(name)
        if isinstance(value, int):
            stack = next(
                (stay for place, stay in kept.items() if "decoder" in name and "decoder" in place),
                next(iter(kept.values())),
            )
            setattr(config, name, len(stack))
    first = next(iter(kept.values()))
    total = next(iter(stacks.values()))
    for name, value in list(config.__dict__.items()):  # one entry a layer (`layer_types`)
        if isinstance(value, list) and len(value) == total and name.endswith(("layer_types", "layers_types")):
            setattr(config, name, [value[i - 1] for i in first])
    return list(kept.values())


def make(name: str, opened: Any, layers: int | Sequence[int], folder: Path, sha256: str) -> Source:
    """Write the teacher with layers dropped into `folder/base_model`, unless it is there already.

    Args:
        name: of the teacher.
        opened: returns its (backbone, tokenizer), with weights that may be changed; called only if it must be.
        layers: how many stay, or which.
        folder: the run's.
        sha256: the teacher's hash.

    Raises:
        ModelError: what was written does not open as what was meant.
    """
    place = folder / "base_model"
    note = {"teacher": sha256, "layers": layers}
    try:
        there = json.loads((place / NOTE).read_text(encoding="utf-8")) == note
    except (OSError, ValueError):
        there = False
    if not there:
        backbone, tokenizer = opened()
        model = backbone.model
        model.config = copy.deepcopy(model.config)
        shorten(backbone, layers)

        def fill(new: Path) -> None:
            model.float().save_pretrained(new)
            tokenizer.save_pretrained(new)
            _check(model, new, name)
            (new / NOTE).write_text(json.dumps(note), encoding="utf-8")

        durable.write_folder(place, fill)
    count = layers if isinstance(layers, int) else len(layers)
    return Source(f"{count} layers of {name}", str(place.resolve()), weights_sha256(place))


def _check(model: Any, folder: Path, name: str) -> None:
    """Open what was written; every weight must be found, and have its shape."""
    import transformers

    quiet = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        again, info = type(model).from_pretrained(folder, output_loading_info=True)
        wrong = sorted(map(str, [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]))
        same = not wrong and all(
            torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True)
        )
    except (OSError, ValueError, RuntimeError, IndexError, KeyError) as error:
        raise ModelError(
            f"the teacher `{name}` cannot lose layers ({type(error).__name__}: {error}); give a student with --model."
        ) from error
    finally:
        transformers.logging.set_verbosity(quiet)
    if not same:
        raise ModelError(
            f"the teacher `{name}` with these layers does not open again (`{wrong[:1]}`); keep layer 1, or give a student with --model."
        )
