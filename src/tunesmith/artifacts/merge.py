"""Fold an adapter into its base, or several adapters into one.

    one        W' = W + what it adds                      a whole model, which answers as base and adapter did
    several    linear, cat, svd, ties, dare, ...          one adapter on the same base

A quantised base is stored as floating point first. How far the largest logit moved on fixed texts is measured on what was written,
and told; beyond a bound nothing is kept. Several LoRA adapters are combined by peft:

    cat        the ranks stand side by side: exactly the weighted sum of the changes
    svd        that sum, cut to a rank
    linear     A and B are summed apart, which is not the sum of their products: rough
    ties, dare_ties, dare_linear, magnitude_prune, each also with `_svd`: small or conflicting entries are dropped first
               (Yadav et al. 2023, section 3; Yu et al. 2024, section 3.2); `density` is the share that stays
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tunesmith import durable
from tunesmith.artifacts import probes
from tunesmith.artifacts.foreign import REWRITING, saved_config
from tunesmith.artifacts.store import Opened, open_artifact, save
from tunesmith.errors import ArtifactError, UserError, unknown
from tunesmith.techniques._base import create

BOUND = 1e-3
"""Share of the largest logit; fp32 gives 1e-5 or less (benchmarks/merging.py)."""
PRUNING = ("ties", "dare_ties", "dare_linear", "magnitude_prune")
METHODS = ("linear", "cat", "svd", *PRUNING, *(f"{name}_svd" for name in PRUNING))
MERGED = "merged"
DENSITY = 0.5
AVERAGING = ("ties", "dare_ties")


@dataclass(frozen=True)
class Origin:
    """What an artifact is saved with."""

    seed: int
    trust_remote_code: bool


def merge(
    artifacts: Sequence[str | Path], output: str | Path, *, method: str | None = None, weights: Sequence[float] | None = None, density: float | None = None,
    rank: int | None = None, bound: float = BOUND, overwrite: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Merge artifacts (or plain peft folders) into a new one.

    Args:
        artifacts: one adapter, which is folded into its base, or several LoRA adapters of one base.
        output: folder of the new artifact.
        method: of several: how they become one (default cat).
        weights: of several: the factor of each (default 1 / n; 1 where a method takes means over those that agree).
        density: of pruning methods: the share of entries that stays (default 0.5).
        rank: of methods that end in svd: of the new adapter (default: the largest).
        bound: how far a logit may move, as a share of the largest.
        overwrite: replace what is in `output`.

    Returns:
        `drift` (the largest movement of a logit), `output`, and what was merged.

    Raises:
        UserError: they cannot be merged, or the drift is beyond the bound; nothing is written then.
    """
    place = Path(output)
    if not artifacts:
        raise UserError("name at least one artifact to merge.")
    if place.exists() and not overwrite:
        raise UserError(f"`{place}` is there already; add --overwrite or give another --output.")
    if len(artifacts) == 1:
        if any(each is not None for each in (method, weights, density, rank)):
            raise UserError(
                "one artifact is folded into its base as it is; method, weights, density and rank are for several."
            )
        opened = open_artifact(artifacts[0], dequantize=True)
        before = {name: probes.answers(each.model, each.tokenizer) for name, each in opened.heads.loaded.items()}
        saved, notes = _fold(opened)
    else:
        method = method or "cat"
        if method not in METHODS:
            raise UserError(unknown("method", method, METHODS))
        if rank is not None and not method.endswith("svd"):
            raise UserError(f"{method} has no rank to choose; leave it out, or take svd or a method that ends in _svd.")
        if density is not None and not method.startswith(PRUNING):
            raise UserError(
                f"{method} drops nothing, so it has no density; leave it out, or take one of {', '.join(PRUNING)}."
            )
        # What disjoint means average already is not divided a second time (Yadav et al. 2023, section 3).
        usual = 1.0 if method.startswith(AVERAGING) else 1 / len(artifacts)
        factors = list(weights) if weights is not None else [usual] * len(artifacts)
        if len(factors) != len(artifacts):
            raise UserError(f"{len(artifacts)} artifacts need as many weights, got {len(factors)}.")
        opened = open_artifact(artifacts[0])
        saved, notes = _combine(opened, artifacts, method, factors, density, rank)
        before = {name: probes.answers(each.model, each.tokenizer) for name, each in opened.heads.loaded.items()}
    return {
        "output": str(place), "artifacts": [str(each) for each in artifacts], **notes, "bound": bound,
        "drift": _write(opened, saved, before, notes, place, bound),
    }  # fmt: skip


def _fold(opened: Opened) -> tuple[Any, dict[str, Any]]:
    """One adapter into its base, which becomes a model of its own."""
    technique = opened.technique
    if technique.saves == "model":
        raise UserError(f"`{opened.folder}` is a whole model already; there is nothing to fold in.")
    if len(opened.heads.loaded) > 1:
        raise UserError(
            f"`{opened.folder}` has several heads ({', '.join(opened.readings)}), and a plain model has one; keep it as an adapter."
        )
    try:
        technique.merge(opened.loaded.backbone)
    except (ValueError, NotImplementedError) as error:
        raise ArtifactError(f"`{opened.folder}` cannot be folded into its base: {error}.") from error
    return create("full"), {"method": "fold", "technique": technique.name}


def _combine(
    opened: Opened, artifacts: Sequence[str | Path], method: str, weights: Sequence[float], density: float | None, rank: int | None
) -> tuple[Any, dict[str, Any]]:  # fmt: skip
    """Several LoRA adapters into one, in the model of the first."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    from tunesmith.techniques._peft import ADAPTER, Shell

    technique: Any = opened.technique
    _check_kind(opened)
    tuner = technique.tuner
    names, heads = [ADAPTER], [dict(opened.loaded.backbone.head_parameters())]
    for number, folder in enumerate(artifacts[1:], 1):
        other = open_artifact(folder)
        _check_pair(opened, other)
        theirs: Any = other.technique
        names.append(f"a{number}")
        tuner.peft_config[names[-1]] = saved_config(other.folder)
        tuner.inject_adapter(opened.loaded.model, names[-1])
        tensors = get_peft_model_state_dict(Shell(theirs.tuner), adapter_name=ADAPTER, save_embedding_layers=False)
        set_peft_model_state_dict(Shell(tuner), tensors, adapter_name=names[-1])
        heads.append(dict(other.loaded.backbone.head_parameters()))
    # The new adapter is made of the first one's configuration, and what it holds is scaled already: by r / alpha = 1, not by its root.
    tuner.peft_config[ADAPTER] = replace(tuner.peft_config[ADAPTER], use_rslora=False)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # DARE drops entries by chance
            tuner.add_weighted_adapter(
                names, list(weights), MERGED, combination_type=method, svd_rank=rank,
                density=(density if density is not None else DENSITY) if method.startswith(PRUNING) else None,
            )  # fmt: skip
    except ValueError as error:
        raise UserError(
            f"these adapters cannot be merged by {method}: {error}; cat and svd take different ranks."
        ) from error
    tuner.set_adapter(MERGED)
    total = sum(weights)
    with torch.no_grad():
        for name, parameter in opened.loaded.backbone.head_parameters():
            if total == 0:
                raise UserError("the weights sum to 0, which leaves no head; give weights that do not.")
            parameter.copy_(
                sum(
                    (w / total * head[name] for w, head in zip(weights, heads, strict=True)),
                    torch.zeros_like(parameter),
                )
            )
    made = copy(technique)
    made.adapter_name = MERGED
    made.config = tuner.peft_config[MERGED]
    made.options = technique.options.model_copy(
        update={"rank": made.config.r, "alpha": made.config.lora_alpha, "rank_stabilized": False}
    )
    return made, {"method": method, "weights": list(weights), "rank": made.config.r}


def _check_kind(opened: Opened) -> None:
    config: Any = getattr(opened.technique, "config", None)
    if opened.technique.saves != "peft" or not hasattr(config, "lora_alpha") or config.use_dora:
        raise UserError(
            f"`{opened.folder}` was trained with {opened.technique.name}; several adapters become one only where all are LoRA."
        )
    if str(config.init_lora_weights).startswith(REWRITING):
        raise UserError(
            f"`{opened.folder}` began by rewriting its base (init {config.init_lora_weights}); fold it into a model of its own instead."
        )
    if len(opened.heads.loaded) > 1:
        raise UserError(f"`{opened.folder}` has several heads; merge artifacts of one task.")


def _check_pair(one: Opened, other: Opened) -> None:
    _check_kind(other)
    mine, theirs = one.info["base_model"], other.info["base_model"]
    if (mine["sha256"], mine["path"] if not mine["sha256"] else "") != (
        theirs["sha256"],
        theirs["path"] if not theirs["sha256"] else "",
    ):
        raise UserError(
            f"`{one.folder}` stands on `{mine['name']}` and `{other.folder}` on `{theirs['name']}`; adapters of one base can be merged."
        )
    if one.task.name != other.task.name or one.task.state_dict() != other.task.state_dict():
        raise UserError(
            f"`{one.folder}` and `{other.folder}` answer other questions ({one.task.name} and {other.task.name}, or other labels), so their heads "
            "cannot become one; put both into an AdapterBank or a stream instead."
        )


def _write(
    opened: Opened, technique: Any, before: dict[str, Any], notes: dict[str, Any], place: Path, bound: float
) -> float:
    """Save beside the final place, open again, measure, and only then put it there; returns the drift."""
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".merging-", dir=place.parent))
    try:
        kept = {k: v for k, v in opened.info.items() if k in ("dtype", "learning_rate")}
        if technique.saves == "peft":
            kept |= {"as_saved": True, "quantization": opened.info.get("quantization", "none")}
        origin = Origin(int(opened.info["seed"]), bool(opened.info["trust_remote_code"]))
        save(temporary / "artifact", opened.heads, opened.readings, technique, origin, {**kept, "merged": notes})
        again = open_artifact(temporary / "artifact")
        found = max(
            probes.drift(before[name], probes.answers(each.model, each.tokenizer))
            for name, each in again.heads.loaded.items()
        )
        if not found <= bound:
            raise ArtifactError(
                f"merged, the largest logit moves by {found:.2e} of its size (bound {bound:g}), so nothing was written; keep the adapter as it is, "
                "or give a larger --bound if that is close enough for you."
            )
        durable.replace(temporary / "artifact", place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return found
