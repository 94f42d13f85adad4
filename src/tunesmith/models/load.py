"""Open a pretrained model with the head a task needs: a folder, a GGUF file, a hub id or an asset.

Safetensors only: a folder that holds nothing but pickled weights is refused. The network is used only for a
hub id.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError

from tunesmith import hub
from tunesmith.cache import store
from tunesmith.config import is_new
from tunesmith.console import say
from tunesmith.errors import ConfigError, ModelError, nearest
from tunesmith.models import quantization as quantized
from tunesmith.models.backbone import Backbone
from tunesmith.models.dropout_rates import set_dropout
from tunesmith.seeding import derive

SHORTEST = 4  # tokens that a row needs: two words and the marks around them
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "bpe.codes",
)  # fmt: skip
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.ckpt")


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        name: what the user called it.
        path: what transformers opens: a folder, or a hub id.
        sha256: hash of the weight files ("" for a hub id before it is downloaded).
    """

    name: str
    path: str
    sha256: str


class Head(Protocol):
    """What opening a model needs of a task."""

    @property
    def reads(self) -> Literal["sequence", "tokens"]:
        """What the head reads."""

    @property
    def owns_head(self) -> bool:
        """Whether the head belongs to the task."""

    def model_class(self, config: Any) -> str:
        """A transformers class such as `AutoModelForSequenceClassification`."""

    def config_overrides(self) -> dict[str, Any]:
        """Configuration entries that the head needs."""

    def bind(self, model: Any, tokenizer: Any, kind: str) -> None:
        """Take what the task needs of the opened model."""


@dataclass
class Loaded:
    """A model with a task's head, its tokenizer and its parts."""

    model: Any
    tokenizer: Any
    backbone: Backbone
    source: Source


def locate(name: str) -> Source:
    """Find a model, fetching an asset or converting a GGUF file if need be.

    Raises:
        ModelError: nothing usable is there.
    """
    if name.startswith("asset:"):
        from tunesmith import assets

        folder = assets.fetch(name.removeprefix("asset:"))
        if not folder.is_dir():
            raise ModelError(f"`{name}` is a data set, not a model; see `tunesmith list assets`.")
        return Source(name, str(folder), weights_sha256(folder))
    if is_new(name):
        raise ModelError(f"`{name}` is made by a run and not found; give the folder of one that was made (base_model).")
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelError(f"`{name}` is a file; give a model folder, a .gguf file, a hub id or asset:NAME.")
        folder = _from_gguf(path)
        return Source(name, str(folder), weights_sha256(folder))
    if path.is_dir():
        _check_folder(path, name)
        return Source(name, str(path.resolve()), weights_sha256(path))
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        folder = path.parent
        close = nearest(path.name, [p.name for p in folder.iterdir()]) if folder.is_dir() else None
        raise ModelError(
            f"there is no model folder `{name}`{f' (did you mean `{folder / close}`?)' if close else ''}; check the path."
        )
    hub.look()
    return Source(name, name, "")


def _check_folder(path: Path, name: str) -> None:
    if not (path / "config.json").is_file():
        raise ModelError(
            f"the folder `{name}` holds no config.json, so it is not a model; give the folder that save_pretrained wrote."
        )
    if not list(path.glob("*.safetensors")):
        pickled = [p for p in PICKLES if (path / p).exists()]
        if pickled:
            raise ModelError(
                f"the folder `{name}` holds its weights only as a pickle (`{pickled[0]}`), which can run code when opened; "
                "convert it once with model.save_pretrained(folder), which writes safetensors."
            )
        raise ModelError(
            f"the folder `{name}` holds no .safetensors weights; give the folder that save_pretrained wrote."
        )


def weights_sha256(folder: Path) -> str:
    """Hash over all weight files of a folder; a single file's hash is that file's own."""
    files = sorted(folder.glob("*.safetensors"))
    hashes = [store.file_sha256(file) for file in files]
    return hashes[0] if len(hashes) == 1 else store.key_of(files=[f.name for f in files], hashes=hashes)


def hashed(source: Source) -> Source:
    """A model with the hash of its weights, those of a hub id included: as they lie in the hub's cache, which they are fetched into.

    Raises:
        ModelError: the hub does not give them.
    """
    if source.sha256 or Path(source.path).exists():
        return source
    from transformers.utils import cached_file

    try:
        folder = Path(str(cached_file(source.path, "config.json"))).parent
        if not list(folder.glob("*.safetensors")):
            cached_file(source.path, "model.safetensors")
    except OSError as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"`{source.name}` is neither a folder here nor a model that the hub gave ({reason}); check the path, or use asset:NAME."
        ) from error
    return replace(source, sha256=weights_sha256(folder))


def _from_gguf(path: Path) -> Path:
    """Dequantise a GGUF file once into a folder that transformers opens."""

    def make(folder: Path) -> None:
        from tunesmith.assets.convert.gguf import unpack

        say(f"Dequantising {path.name} once (about a minute for a few hundred million parameters).")
        unpack(path, folder)

    return store.folder("gguf", store.key_of(sha=store.file_sha256(path)), make)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds the files of a tokenizer."""
    return any((folder / file).exists() for file in TOKENIZER_FILES)


def load_tokenizer(source: Source, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model, with a padding token.

    Raises:
        ModelError: the folder has none.
    """
    from transformers import AutoTokenizer

    folder = Path(source.path)
    if folder.is_dir() and not has_tokenizer(folder):
        raise ModelError(
            f"the model folder `{source.name}` has no tokenizer; save it there with tokenizer.save_pretrained(folder)."
        )
    import tunesmith.models.recurrent  # noqa: F401  (a tokenizer may ask for the model's configuration)

    try:
        tokenizer = AutoTokenizer.from_pretrained(source.path, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises many kinds
        raise _unusable(source, "tokenizer", error) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ModelError(
            f"the tokenizer of `{source.name}` has no padding, end or unknown token; set tokenizer.pad_token and save it."
        )
    tokenizer.padding_side = "right"
    return tokenizer


def _unusable(source: Source, part: str, error: Exception) -> ModelError:
    reason = str(error).strip().split("\n")[0]
    if not Path(source.path).is_dir():
        from tunesmith import assets

        known = {a.name: f"asset:{a.name}" for a in assets.catalogue() if a.kind == "model"}
        known |= {path.name: f"./{path.name}" for path in Path().iterdir() if (path / "config.json").is_file()}
        close = nearest(source.name, known)
        hint = (
            f"did you mean `{known[close]}`?"
            if close
            else "check the path or the id, or use asset:NAME (see `tunesmith list assets`)."
        )
        return ModelError(
            f"`{source.name}` is neither a folder here nor a model that the hub gave ({type(error).__name__}: {reason}); {hint}"
        )
    return ModelError(
        f"the {part} of `{source.name}` cannot be opened ({type(error).__name__}: {reason}); restore its files or save it again."
    )


def load_model(
    source: Source,
    tokenizer: Any,
    head: Head,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
    quantization: str = "none",
    dropout: float | None = None,
) -> Loaded:
    """Open a model under a task's head.

    A head that the checkpoint does not bring is drawn from `seed`, so that every technique starts from the same
    one. The configuration is the model's own copy: techniques may change it.

    Args:
        source: from `locate`.
        tokenizer: from `load_tokenizer`.
        head: the task: which class carries its head, and what the configuration needs for it.
        seed: for the head's first values.
        dtype: of the weights.
        trust_remote_code: run code from the model's folder.
        quantization: how the backbone's weights are stored: `none`, `nf4` or `int8`.
        dropout: every rate of the model, in place of its own.
    """
    import transformers

    quiet = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # "some weights were newly initialised" is expected here
    import tunesmith.models.recurrent  # noqa: F401  (registers its classes)

    state = torch.random.get_rng_state()
    seen = {"reads": head.reads, "tokenizer": tokenizer, "owns_head": head.owns_head}
    try:
        config = transformers.AutoConfig.from_pretrained(source.path, trust_remote_code=trust_remote_code)
        inner = getattr(config, "text_config", None)
        for key, value in {**head.config_overrides(), "pad_token_id": tokenizer.pad_token_id}.items():
            setattr(config, key, value)
            if inner is not None and key == "pad_token_id":
                setattr(inner, key, value)
        cls = model_class(head.model_class(config), config)

        def opened(renamed: dict[str, str] | None = None) -> Any:
            torch.manual_seed(derive(seed, "head"))
            return cls.from_pretrained(
                source.path,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=trust_remote_code,
                ignore_mismatched_sizes=True,  # a head of another size is drawn anew
                key_mapping=renamed,
                **quantized.load_options(quantization, cls, config, **seen),
            )

        model, info = opened()
        lost = lost_blocks(model, info, seen)
        if lost:
            renamed = other_prefix(lost, info["unexpected_keys"])
            model, info = opened(renamed) if renamed else (model, info)
            lost = lost_blocks(model, info, seen) if renamed else lost
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError, SafetensorError) as error:
        raise _unusable(source, "model", error) from error
    finally:
        torch.random.set_rng_state(state)
        transformers.logging.set_verbosity(quiet)
    if lost:
        raise ModelError(
            f"`{source.name}` lacks {len(lost)} weights of the layers of {type(model).__name__} (`{lost[0]}`), which would be random; give a "
            "model of that family, or save it again from the class that holds all of them."
        )
    # Names the checkpoint lacks, and those it has in another shape.
    new = {*info["missing_keys"], *(key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])}
    quantized.take_over(model)
    if dropout is not None:
        set_dropout(model, dropout)
    model.eval()
    backbone = Backbone(model, fresh=frozenset(new), **seen)
    head.bind(model, tokenizer, backbone.kind)
    return Loaded(model, tokenizer, backbone, hashed(source))


def lost_blocks(model: Any, info: Mapping[str, Any], seen: Mapping[str, Any]) -> list[str]:
    """Weights inside the repeated blocks that a checkpoint did not bring: without a word they would be random."""
    if not info["missing_keys"]:
        return []
    blocks = tuple(f"{name}." for name, _ in Backbone(model, **seen).named_layers())
    return sorted(key for key in info["missing_keys"] if key.startswith(blocks))


def other_prefix(lost: Sequence[str], spare: Collection[str]) -> dict[str, str] | None:
    """How a checkpoint calls what a class calls otherwise: Llama's class for answers looks for `transformer.`, files have `model.`."""
    ours = lost[0].split(".")[0]
    for name in {key.split(".")[0] for key in spare}:
        if sum(f"{name}.{key.removeprefix(f'{ours}.')}" in spare for key in lost) * 2 > len(lost):
            return {f"^{re.escape(name)}\\.": f"{ours}."}
    return None


def model_class(name: str, config: Any) -> Any:
    """The class called `name` (`AutoModelFor...`) in transformers, completed by ours where it has none for a family.

    Raises:
        ModelError: there is none.
    """
    import transformers

    auto = getattr(transformers, name)
    known = getattr(auto, "_model_mapping", {type(config)})
    if type(config) not in known:
        import tunesmith.models.classes  # noqa: F401  (registers them)
    if type(config) not in known and name not in (getattr(config, "auto_map", None) or {}):
        raise ModelError(
            f"transformers has no {name} for `{config.model_type}` models, so this task cannot stand on one; take another model."
        )
    return auto


def longest_input(config: Any, tokenizer: Any) -> int | None:
    """How many tokens the model can read; None where nothing bounds it (relative positions)."""
    inner = getattr(config, "text_config", None) or config
    bound = getattr(inner, "max_position_embeddings", None) or getattr(inner, "n_positions", None)
    if getattr(inner, "model_type", "") in ("t5", "mt5", "umt5"):
        bound = None  # relative positions
    if bound and getattr(inner, "model_type", "") in ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl"):
        bound -= int(getattr(inner, "pad_token_id", 1) or 1) + 1  # positions start after the padding index
    limit = getattr(tokenizer, "model_max_length", None)
    if limit and limit < 10**9:
        bound = min(int(bound), int(limit)) if bound else int(limit)
    return int(bound) if bound else None


def positions(loaded: Loaded, taken: int) -> int | None:
    """Tokens that a model can hold beside the `taken` positions of a technique; None where nothing bounds it."""
    bound = longest_input(loaded.model.config, loaded.tokenizer)
    return bound - taken if bound else None


def pick_max_length(asked: int | None, default: int, loaded: Loaded, taken: int = 0) -> int:
    """The cut for every row: what was asked for, or the task's default, within what the model can read.

    Args:
        asked: --max-length.
        default: the task's cut.
        loaded: model and tokenizer.
        taken: positions that the technique needs for itself (a soft prompt).

    Raises:
        ConfigError: the model cannot read that much.
    """
    bound = longest_input(loaded.model.config, loaded.tokenizer)
    room = bound - taken if bound else None
    if room is not None and room < SHORTEST:
        raise ConfigError(
            [
                (
                    "max_length",
                    f"the technique takes {taken} of the {bound} positions that `{loaded.source.name}` reads and leaves no room for text; "
                    "make the prompt shorter.",
                )
            ]
        )
    if asked is not None:
        if room is not None and asked > room:
            share = f" less {taken} for the prompt" if taken else ""
            raise ConfigError(
                [
                    (
                        "max_length",
                        f"{asked} is beyond what `{loaded.source.name}` reads ({bound} tokens{share}); use {room} or less.",
                    )
                ]
            )
        return asked
    return default if room is None else min(default, room)
