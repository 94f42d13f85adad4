"""QLoRA: LoRA on a backbone whose weights are stored in four bits (Dettmers et al. 2023, section 3, equation 5).

    y = dequantise(W_nf4) x + (alpha / r) B A x          A and B in floating point, W frozen

The same as `lora` with `quantization: nf4`, which any technique takes that adds to a frozen backbone; with `quantization: int8` it has
eight bits.
"""

from __future__ import annotations

from typing import Any, ClassVar

from tunesmith.techniques.lora import LoRA


class QLoRA(LoRA):
    """LoRA on a 4-bit backbone."""

    variant_of: ClassVar[str | None] = "lora"

    def load_options(self) -> dict[str, Any]:
        """The backbone is loaded in NF4."""
        return {"quantization": "nf4"}
