"""Any other method of peft: `peft:LOHA`, `peft:OFT`, `peft:BOFT`, ... with its options passed through.

Options are those of the peft configuration class of the method (`LoHaConfig`, `OFTConfig`, ...); target modules
default to all linear modules of the backbone. Prompt methods have their own techniques here (`prompt-tuning`,
`prefix-tuning`), because peft's change the positions that a head sees. Methods that share state between modules (VeRA,
VB-LoRA) cannot be injected in place and are refused.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from pydantic import ConfigDict, Field

from tunesmith.config import Options as BaseOptions
from tunesmith.errors import TechniqueError, unknown
from tunesmith.models.backbone import Backbone
from tunesmith.techniques._peft import PeftTechnique, find_targets

OWN = {"LORA": "lora", "IA3": "ia3", "PROMPT_TUNING": "prompt-tuning", "PREFIX_TUNING": "prefix-tuning"}


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
        if tuner is not None and not getattr(tuner, "uses_shared_state", True):
            found.append(kind.value)
    return sorted(found)


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
        return cls(**given)

    def closed_form_count(self, backbone: Backbone) -> int:
        """Counted, not derived: every method has its own formula."""
        return sum(p.numel() for n, p in backbone.backbone_parameters() if p.requires_grad)
