"""A plain peft folder, made by another program, described as if it were an artifact of ours.

    adapter_config.json          which method, on which base, for what     -> technique, base model, task
    adapter_model.safetensors    its weights, and the head's if it has one -> labels, where nothing else says them

The peft configuration is used as it stands (`as_saved`), so that what has no name among our options (rank patterns, layers chosen by
number) still means what it meant. What a folder does not say is asked for: the task of a language model, or a base that is not here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith import registry
from tunesmith.cache import store
from tunesmith.errors import ArtifactError, UserError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OUTPUTS = ("classifier", "score", "out_proj", "qa_outputs")  # last modules of heads
LONGEST = 1 << 20  # bytes of a configuration file
TASKS = {
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "CAUSAL_LM": "instruction",
    "SEQ_2_SEQ_LM": "instruction",
}
OWN = {"LORA": "lora", "IA3": "ia3", "PROMPT_TUNING": "prompt-tuning", "PREFIX_TUNING": "prefix-tuning"}
PROMPTS = ("PROMPT_TUNING", "PREFIX_TUNING")
PREFIX = "base_model.model."
REWRITING = ("pissa", "olora", "corda", "loftq")
"""Initialisations of LoRA that take something out of the base's weights."""


def is_foreign(folder: Path) -> bool:
    """Whether a folder is a peft adapter without a description of ours."""
    return (folder / CONFIG).is_file()


def describe(
    folder: Path, *, task: str | None = None, base: str | None = None, labels: Sequence[str] | None = None
) -> dict[str, Any]:
    """The description (`tunesmith.json`) that such a folder would have.

    Args:
        folder: the adapter.
        task: what its rows are for, where its own task type is not meant.
        base: the model that it stands on, where the one it names is not here.
        labels: names of a classifier's outputs, in their order.

    Raises:
        ArtifactError: it is damaged, or a method that cannot be used.
    """
    config = _read(folder)
    method = str(config.get("peft_type") or "").upper()
    name = OWN.get(method, f"peft:{method}")
    if method == "LORA" and config.get("use_dora"):
        name = "dora"
    try:
        found = registry.resolve("technique", name)
    except UserError as error:
        raise ArtifactError(
            f"`{folder}` was made by peft's method `{method or 'none'}`, which cannot be used here."
        ) from error
    kind = str(config.get("task_type") or "")
    if method in PROMPTS and kind != "CAUSAL_LM":
        raise ArtifactError(
            f"`{folder}` is a {found.name} of peft for {kind or 'no task'}, whose head reads other positions than ours; only those of causal "
            "language models can be used."
        )
    place = base or config.get("base_model_name_or_path")
    if not place:
        raise ArtifactError(f"`{folder}` does not name its base model; give it with --model.")
    wanted = task or TASKS.get(kind)
    if wanted is None:
        raise ArtifactError(
            f"`{folder}` does not say what it is for (task_type {kind or 'null'}); give it with --task."
        )
    saved = shapes(folder)
    heads = [str(each) for each in config.get("modules_to_save") or []]
    options: dict[str, Any] = {}
    if method in PROMPTS:
        options = {"length": int(config.get("num_virtual_tokens") or 0)}
    task_name = registry.resolve("task", wanted).name
    from tunesmith.models.load import locate

    source = locate(str(place))
    return {
        "schema_version": 1,
        "task": task_name,
        "task_options": {},
        "task_state": _state(task_name, saved, heads, source.path, folder, labels),
        "technique": found.name if found.name != "peft" else name,
        "technique_options": options,
        "format": "peft",
        "as_saved": method not in PROMPTS,
        "base_model": {"name": str(place), "path": source.path, "sha256": source.sha256},
        "head": sorted(heads),
        "head_name": task_name,
        "max_length": _longest(source.path, task_name),
        "trust_remote_code": False,
        "quantization": "none",
        "seed": 0,
        "files": {WEIGHTS: store.file_sha256(folder / WEIGHTS)},
    }


def _read(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if path.stat().st_size > LONGEST:
        raise ArtifactError(
            f"`{path}` has {path.stat().st_size:,} bytes, which no adapter's configuration has; restore it."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"`{path}` is damaged ({error}); restore it from a copy.") from error
    if not isinstance(config, dict):
        raise ArtifactError(f"`{path}` holds no adapter configuration; restore it from a copy.")
    if not (folder / WEIGHTS).is_file():
        pickled = next(iter(folder.glob("adapter_model.bin")), None)
        raise ArtifactError(
            f"`{folder}` holds its weights only as a pickle (`{pickled.name}`), which can run code when opened; load it once with peft and call "
            "save_pretrained, which writes safetensors."
            if pickled
            else f"`{folder}` lacks `{WEIGHTS}`; restore it from a copy."
        )
    return config


def saved_config(folder: Path) -> Any:
    """The peft configuration of a folder, ready to be trained on or loaded into.

    Raises:
        ArtifactError: this peft cannot read it.
    """
    from peft import PeftConfig

    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ArtifactError(
            f"peft cannot read `{folder / CONFIG}` ({reason}); save the adapter with a peft like the one installed."
        ) from error
    config.inference_mode = False  # else its parameters would be frozen
    if hasattr(config, "modules_to_save"):
        config.modules_to_save = None  # heads are the task's: they are loaded beside, never wrapped
    return config


def rewrites_base(folder: Path) -> bool:
    """Whether a LoRA adapter stands on base weights that its initialisation changed, some of them in place (peft's olora)."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return str(config.get("init_lora_weights", "")).startswith(REWRITING)
    except (OSError, ValueError, AttributeError, RecursionError):
        return False  # no peft folder, or whoever opens it says what is wrong


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every saved tensor, by its name inside the model; nothing is loaded.

    Raises:
        ArtifactError: the file is cut or no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(folder / WEIGHTS), "pt") as opened:
            return {n.removeprefix(PREFIX): tuple(opened.get_slice(n).get_shape()) for n in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(f"`{folder / WEIGHTS}` is damaged ({error}); restore it from a copy.") from error


def _state(
    task: str, saved: dict[str, tuple[int, ...]], heads: list[str], base: str, folder: Path, named: Sequence[str] | None
) -> dict[str, Any]:
    """What the task would have learned from its rows."""
    empty = registry.load("task", task)
    made = empty(empty.Options())
    if task not in ("text-classification", "token-classification"):
        return dict(made.state_dict())
    of_head = [(name, s) for name, s in saved.items() if name.startswith(tuple(f"{h}." for h in heads)) and len(s) == 2]
    # What comes last in a head has as many rows as there are labels; dense layers before it are as wide as the model.
    last = [s[0] for name, s in of_head if name.split(".")[-2] in OUTPUTS]
    count = min(last or [s[0] for _, s in of_head], default=0)
    if not count:
        raise ArtifactError(
            f"`{folder}` is for {task} and holds no head (modules_to_save), so what it predicts is random; save it again with its head."
        )
    if named is not None and len(named) != count:
        raise UserError(
            f"`{folder}` tells {count} labels apart, and {len(named)} are named; give all of them with --labels, in their order."
        )
    labels, numeric = (list(named), False) if named is not None else _labels(count, base)
    if task == "text-classification":
        problem = "regression" if count == 1 else "single-label"
        return {"problem": problem, "labels": labels if count > 1 else [], "numeric": numeric, "weights": None}
    scheme = "bio" if any(label.startswith("B-") for label in labels) else "plain"
    return {**made.state_dict(), "scheme": scheme, "labels": labels, "numeric": numeric}


def _labels(count: int, base: str) -> tuple[list[str], bool]:
    """Names from the base's own configuration where it has as many, else numbers."""
    from transformers import AutoConfig

    known = getattr(AutoConfig.from_pretrained(base), "id2label", None) or {}
    names = [str(known[i]) for i in sorted(known)]
    if len(names) == count and names != [f"LABEL_{i}" for i in range(count)]:
        return names, False
    return [str(i) for i in range(count)], True


def _longest(base: str, task: str) -> int:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base)
    inner = getattr(config, "text_config", None) or config
    bound = getattr(inner, "max_position_embeddings", None) or getattr(inner, "n_positions", None)
    usual = int(registry.load("task", task).default_max_length)
    return min(usual, int(bound)) if bound else usual
