"""The commented configuration that `tunesmith init` writes, made from the option sets themselves."""

from __future__ import annotations

import json
from typing import Any

from tunesmith import registry
from tunesmith.config import RunConfig, TrainingOptions

SHOWN = (
    "model", "task", "train", "validation", "eval", "columns", "technique", "retain", "seed", "epochs", "max_steps", "batch_size",
    "learning_rate", "max_length", "dtype", "output",
)  # fmt: skip
ACTIVE = {"model": "asset:minilm", "train": "asset:movie-reviews", "epochs": 3, "output": "runs/first"}


def template(technique: str, task: str) -> str:
    """YAML with every setting explained; those at their default are commented out."""
    lines = [
        "# A tunesmith run. Settings that are commented out show their default.",
        "# Run it:  tunesmith train --config tunesmith.yaml    (flags win: --seed 1, --set lora.rank=8)",
        "",
    ]
    active = {**ACTIVE, "technique": technique, "task": task}
    for name in SHOWN:
        field = RunConfig.model_fields[name]
        lines.append(f"# {field.description or 'any whole number; the same seed gives the same run'}")
        if name in active:
            lines.append(f"{name}: {_yaml(active[name])}")
        else:
            lines.append(f"# {name}: {_yaml(field.get_default(call_default_factory=True))}")
    lines += ["", "# How the loop runs.", "# training:"]
    lines += _options(TrainingOptions, "#   ")
    for kind, name in (("technique", technique), ("task", task)):
        entry = registry.resolve(kind, name)
        lines += ["", f"# {entry.summary}", f"# {entry.name}:", *_options(registry.load(kind, name).Options, "#   ")]
    return "\n".join(lines) + "\n"


def _options(cls: Any, indent: str) -> list[str]:
    return [
        f"{indent}{name}: {_yaml(field.get_default(call_default_factory=True))}"
        + (f"    # {field.description}" if field.description else "")
        for name, field in cls.model_fields.items()
    ]


def _yaml(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
