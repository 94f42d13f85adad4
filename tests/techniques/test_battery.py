"""Every technique, in its variants, on every architecture: the battery, or a refusal with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith import registry
from tunesmith.testing import KINDS, check_technique
from tunesmith.testing.techniques import refusal

VARIANTS = [
    ("full", {}),
    ("feature-based", {}),
    ("feature-based", {"pooling": "native"}),
    ("bitfit", {}),
    ("adapter", {"placement": "houlsby"}),
    ("adapter", {"placement": "pfeiffer"}),
    ("adapter", {"placement": "parallel"}),
    ("lora", {"rank": 4}),
    ("dora", {"rank": 4}),
    ("ia3", {}),
    ("prompt-tuning", {"length": 5}),
    ("prefix-tuning", {"length": 5}),
    ("prefix-tuning", {"length": 5, "reparametrization": True, "hidden": 16}),
    ("peft:LOHA", {}),
]
REFUSED = {("bitfit", kind): "has none; choose" for kind in ("modernbert", "llama", "qwen3", "gemma3", "t5")}
REFUSED["peft:LOHA", "gpt2"] = "Conv1D"  # peft's LoHa has no layer for it


def test_every_technique_is_in_the_battery() -> None:
    assert {registry.split_name(name)[0] for name, _ in VARIANTS} == set(registry.names("technique"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "options"), VARIANTS, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values()))
)
def test_battery(name: str, options: dict[str, object], kind: str, models: Path) -> None:
    if (name, kind) in REFUSED:
        reason = refusal(name, kind, models, options)
        assert reason is not None and REFUSED[name, kind] in reason
        return
    check_technique(name, kind, models, options)
