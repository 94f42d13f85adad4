"""How large the artifact will be: what learns as fp32 tensors (or all of the model), the tokenizer, and a few files of text."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tunesmith.evaluation.cost import folder_bytes

TEXT = 8 * 1024  # bytes of tunesmith.json, the card and what peft adds
A_NUMBER = 4  # bytes, in fp32
A_TENSOR = 160  # bytes of a tensor's entry in the header of its file


def artifact_bytes(heads: Any, technique: Any) -> int:
    """Bytes of the folder that a run leaves.

    Args:
        heads: the technique attached.
        technique: says what is saved.
    """
    whole = technique.saves == "model"
    unique = {id(p): p for p in heads.parameters()}.values()
    chosen = [p for p in unique if whole or p.requires_grad]
    size = sum(p.numel() * A_NUMBER + A_TENSOR for p in chosen)
    return size + _tokenizer_bytes(heads.first.tokenizer) + TEXT


def _tokenizer_bytes(tokenizer: Any) -> int:
    """Of its files, written to see: they are not those that it came from."""
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        tokenizer.save_pretrained(folder)
        return folder_bytes(Path(folder))
