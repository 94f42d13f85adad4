"""Every technique, in its variants, on every architecture: the battery, or a refusal with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith import registry
from tunesmith.techniques.peft import OWN, methods
from tunesmith.techniques.peft import REFUSED as PEFT_REFUSED
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
    ("qlora", {"rank": 4}),
    ("ia3", {}),
    ("prompt-tuning", {"length": 5}),
    ("prefix-tuning", {"length": 5}),
    ("prefix-tuning", {"length": 5, "reparametrization": True, "hidden": 16}),
    ("peft:LOHA", {}),
    ("peft:VERA", {"r": 8}),
    ("peft:VBLORA", {}),
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


# Options that make each method fit matrices of 32 x 32; the others work as they come.
SMALL = {
    "C3A": {"block_size": 16}, "FOURIERFT": {"n_frequency": 100}, "MISS": {"r": 4}, "PSOFT": {"r": 8}, "ROAD": {"group_size": 8},
    "SHIRA": {"r": 4}, "WAVEFT": {"n_frequency": 100},
}  # fmt: skip


@pytest.mark.parametrize("method", methods())
def test_every_peft_method_trains(method: str, models: Path) -> None:
    """All that peft has and `peft:METHOD` takes, the ones with tensors shared between modules among them."""
    check_technique(f"peft:{method}", "llama", models, SMALL.get(method, {}))


@pytest.mark.parametrize("method", [*OWN, *PEFT_REFUSED])
def test_refused_peft_methods_say_why(method: str, models: Path) -> None:
    reason = refusal(f"peft:{method}", "bert", models)
    assert reason is not None
    assert (f"use the technique `{OWN[method]}`" if method in OWN else PEFT_REFUSED[method]) in reason


def test_no_peft_method_is_forgotten() -> None:
    """A new release of peft brings methods: each must be taken or refused by name."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    assert {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING} == {*methods(), *OWN, *PEFT_REFUSED}
