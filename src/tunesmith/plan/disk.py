"""How large the artifact will be: what learns as fp32 tensors (or all of the model), the tokenizer, and a few files of text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.models.load import TOKENIZER_FILES

TEXT = 16 * 1024  # bytes of tunesmith.json, the card and what peft adds
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
    return size + _tokenizer_bytes(heads.first) + TEXT


def _tokenizer_bytes(loaded: Any) -> int:
    """Of the tokenizer's files where it came from; nothing where they are not in a folder of their own."""
    folder = Path(str(getattr(loaded.tokenizer, "name_or_path", "")))
    if not folder.is_dir():
        folder = Path(loaded.source.path)
    names = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if "tokenizer.json" in names:  # what it was made from is not written again
        names = [name for name in names if name.startswith("tokenizer")]
    return sum((folder / name).stat().st_size for name in names)
