"""What the frozen part of a backbone gives, computed once and served while the rest learns: its features, or states of its lower layers."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from tunesmith.cache import store
from tunesmith.console import say, warn
from tunesmith.preparation import Model, Part, quantization_of

if TYPE_CHECKING:
    from tunesmith.objectives._base import Lesson

LARGEST = 4 * 2**30  # bytes of states of lower layers that are kept unasked


def key_of(model: Model, part: Part, sha256: str) -> dict[str, Any]:
    """What anything that a frozen backbone gives of a task's rows depends on.

    Args:
        model: with its source and heads.
        part: the task.
        sha256: of the rows.
    """
    from tunesmith.data.encode import tokenizer_fingerprint
    from tunesmith.evaluation import cost

    source, loaded, task = model.source, model.heads[part.head], part.task
    return {
        "rows": sha256,
        "max_length": part.max_length,
        "tokenizer": tokenizer_fingerprint(loaded.tokenizer),
        "model": source.sha256 or source.path,
        "task": task.name,
        "task_state": task.state_dict(),
        "task_options": task.options.model_dump(mode="json"),
        "bound": task.encoding_key(),
        "task_code": task.code_version,
        "model_config": loaded.model.config.to_json_string(),
        "quantization": quantization_of(model.config, model.technique),
        "versions": cost.versions(),
    }


def features_of(
    model: Model, part: Part, lesson: Lesson, dtype: Any, *, only_plan: bool = False
) -> tuple[Any, Any, float]:
    """What the frozen backbone makes of the training rows, the stand-in that serves it, and the seconds it took once.

    The seconds count as training time even when the features were cached by an earlier run: without them this
    technique would seem to cost nothing. The backbone runs in `dtype`; for a plan, on a few of the rows.
    """
    from tunesmith.training import features

    loaded = model.heads[part.head]
    key = {
        **key_of(model, part, lesson.sha256),
        "technique": model.technique.options.model_dump(mode="json"),
        "seed": model.config.seed if any(loaded.backbone.fresh) else None,
    }
    return features.compute(
        loaded.backbone, part.task, lesson.features, key, model.config.eval_batch_size, model.device, model.pad_id,
        model.technique.reader, dtype, only_plan=only_plan,
    )  # fmt: skip


def lower_layers(
    model: Model, part: Part, lesson: Lesson, feed: Any, dtype: Any, steps: int, wanted: bool | None
) -> tuple[Any, float]:
    """What serves the states of frozen lower layers, and the seconds they took once; (None, 0) where they run in every step.

    Args:
        model: in the dtype of training, the technique attached.
        part: the only task.
        lesson: what it learns from.
        feed: of its rows, through which the states are served.
        dtype: of training.
        steps: optimiser steps of the run.
        wanted: yes, no, or where it pays.
    """
    from tunesmith.techniques._layers import boundary
    from tunesmith.training.lower_layers import CODE, LowerLayers, compute
    from tunesmith.training.trials import stored_states_work

    technique = model.technique
    if wanted is False or (wanted is None and technique.layers is None):
        return None, 0.0
    backbone, rows, batch_size = model.heads[part.head].backbone, lesson.features, model.config.eval_batch_size
    depth = boundary(backbone)
    key = store.key_of(
        **key_of(model, part, lesson.sha256),
        code=CODE,
        depth=depth,
        dtype=str(dtype),
        # What is stored differs in its last bits between these, and a run is to be the same whatever ran before it.
        device=model.device.type,
        batch_size=batch_size,
        seed=model.config.seed if any(not backbone.in_head(name) for name in backbone.fresh) else None,
    )
    size = int(rows.lengths.sum()) * backbone.hidden_size * dtype.itemsize
    why = _does_not_apply(model, part, depth) or ("" if wanted else _does_not_pay(feed, steps, size, key))
    if not why and depth:
        served = LowerLayers(backbone, depth, dtype, model.device)
        if stored_states_work(part.task, technique, backbone, rows, model.pad_id, served):
            spent = compute(served, part.task, rows, key, batch_size, model.pad_id)
            feed.lower = served
            say(
                f"The lowest {depth} of {len(backbone.layers)} layers are frozen and run once: their states of {len(rows):,} rows are kept "
                f"({size / 2**20:,.1f} MiB)."
            )
            return served, spent
        why = (
            f"a step of {type(backbone.model).__name__} from stored states has another gradient than one from the rows"
        )
    if wanted:
        warn(f"training.cache_frozen_layers=true has no effect: {why}.")
    return None, 0.0


def _does_not_apply(model: Model, part: Part, depth: int | None) -> str:
    """Why stored states could not be trained on; nothing where a trial is to decide."""
    layers = model.heads[part.head].backbone.named_layers()
    if model.technique.layers is None:
        return f"{model.technique.name} was not told to keep to the last layers (`layers`)"
    if model.config.strategy != "none" or model.config.objective != "supervised":
        return "strategies and distillation run the whole model on rows of their own"
    if part.task.redraws:
        return "what is masked is drawn anew in every step"
    if not depth:
        return "no layer lies below everything that learns"
    if len({name.rpartition(".")[0] for name, _ in layers[: depth + 1]}) > 1:
        return "the layers that learn are in a decoder that reads an encoder"
    return ""


def _does_not_pay(feed: Any, steps: int, size: int, key: str) -> str:
    """Why states are not worth keeping."""
    from tunesmith.training.lower_layers import KIND

    if steps <= feed.steps_per_epoch:
        return "every row is seen once"
    if size > LARGEST:
        return "the states are too large"
    root = store.cache_root()
    place = next(each for each in (root, *root.parents) if each.exists())
    there = store.has(KIND, key)  # a run that is resumed goes on with what it wrote, however full the disk has become
    return "" if there or size <= shutil.disk_usage(place).free // 2 else "the disk has too little room"
