"""Any other method of peft: `peft:LOHA`, `peft:OFT`, `peft:BOFT`, ... with its options passed through.

Options are those of the peft configuration class of the method (`LoHaConfig`, `OFTConfig`, ...); target modules
default to all linear modules of the backbone. Methods whose modules share tensors (VeRA, VB-LoRA, Tiny-LoRA, ...) work
as the others do. Refused, each with its reason: peft's prompt methods, which change the positions that a head sees, and
the few that need more than a forward and a backward pass (`REFUSED`).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

from pydantic import ConfigDict, Field

from tunesmith.config import Options as BaseOptions
from tunesmith.errors import TechniqueError, unknown
from tunesmith.models.backbone import Backbone, dimensions
from tunesmith.techniques._peft import PeftTechnique, find_targets

OWN = {
    "LORA": "lora", "IA3": "ia3", "PROMPT_TUNING": "prompt-tuning", "PREFIX_TUNING": "prefix-tuning", "P_TUNING": "prompt-tuning",
    "CPT": "prompt-tuning", "CARTRIDGE": "prefix-tuning", "MULTITASK_PROMPT_TUNING": "prompt-tuning", "ADAPTION_PROMPT": "prefix-tuning",
}  # fmt: skip
REFUSED = {
    "ADALORA": "it prunes ranks between steps by a schedule of its own; use `lora` with a rank that you compare",
    "POLY": "it needs a task number beside every row",
    "SHADOW": "it replaces the forward pass of the model that the head belongs to",
    "TRAINABLE_TOKENS": "it adapts single token embeddings and has no linear targets",
    "XLORA": "it mixes LoRA adapters that must exist already",
}


class Options(BaseOptions):
    """`targets`, and anything that the method's own configuration takes."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    targets: list[str] = Field(["all-linear"], min_length=1, description="roles or module names")


def methods() -> list[str]:
    """Names of the peft methods that can be injected."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    found = []
    for kind in PEFT_TYPE_TO_CONFIG_MAPPING:
        tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(kind)
        if hasattr(tuner, "uses_shared_state") and kind.value not in OWN and kind.value not in REFUSED:
            found.append(kind.value)
    return sorted(found)


def common_divisor(backbone: Backbone, targets: list[str], limit: int = 256) -> int:
    """The longest vector, up to peft's default of 256, that divides every side of the target matrices."""
    linears = backbone.linears()
    sides = math.gcd(*(side for name in targets for side in dimensions(linears[name])))
    return max(d for d in range(1, limit + 1) if sides % d == 0)


class PeftMethod(PeftTechnique):
    """A peft method by its name."""

    Options = Options
    default_learning_rate = 1e-3
    starts_as_identity: ClassVar[bool] = False  # some methods start with noise; none is promised

    def peft_config(self, backbone: Backbone) -> Any:
        """The method's own configuration class, filled with the options given.

        Raises:
            TechniqueError: no such method or option, or a method of ours.
        """
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
        from peft.utils import PeftType

        method = (self.variant or "").upper()
        if method in OWN:
            raise TechniqueError(f"use the technique `{OWN[method]}` instead of `peft:{method}`.")
        if method in REFUSED:
            raise TechniqueError(f"peft:{method} cannot be used here: {REFUSED[method]}.")
        if method not in methods():
            raise TechniqueError(unknown("peft method", self.variant or "(none; write peft:METHOD)", methods()))
        cls = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method)]
        fields = {field.name for field in dataclasses.fields(cls)}
        given = dict(self.options.model_extra or {})
        for key in given:
            if key not in fields:
                raise TechniqueError(f"peft:{method}: " + unknown("option", key, fields - {"peft_type", "task_type"}))
        if "target_modules" in fields and "target_modules" not in given:
            given["target_modules"] = list(find_targets(backbone, self.options.targets))
        if method == "VBLORA" and "vector_length" not in given:
            given["vector_length"] = common_divisor(backbone, given["target_modules"])
        try:
            return cls(**given)
        except (TypeError, ValueError) as error:
            raise TechniqueError(f"peft:{method}: {error}") from error

    def closed_form_count(self, backbone: Backbone) -> int:
        """Counted, not derived: every method has its own formula."""
        return sum(p.numel() for n, p in backbone.backbone_parameters() if p.requires_grad)
