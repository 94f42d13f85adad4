"""`--model new:lstm`: random weights and a tokenizer in a model folder, made before a run and then used like any other.

The weights depend on the seed, the tokenizer on the training rows alone (or it is one that exists): byte-level BPE, which knows
every text, so that there is no unknown token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from tunesmith import durable
from tunesmith.cache import store
from tunesmith.config import NEW, RunConfig, is_new
from tunesmith.console import say
from tunesmith.errors import ModelError
from tunesmith.models.load import Source, load_tokenizer, locate, weights_sha256
from tunesmith.seeding import derive

LEARNING_RATE = 5e-3
"""For all parameters of a recurrent model from random weights, with AdamW; fine-tuning rates are far too small for that. On 90,000
tokens of speeches (width 192, 400 steps) an LSTM came to a loss of 5.11 with 5e-3 and 5.79 with 2e-3; RNN and GRU likewise."""
EPOCHS = 10.0
PAD, START, END = "<pad>", "<s>", "</s>"
NOTE = "new.json"
CODE = 1  # part of the keys: raise it when tokenizers or weights are made otherwise


class Rows(Protocol):
    """What is needed of rows: their table and its hash."""

    @property
    def table(self) -> Any:
        """Columns by name."""

    @property
    def sha256(self) -> str:
        """Of the content."""


class Texts(Protocol):
    """What a task says about the columns that hold text."""

    inputs: Sequence[str]
    targets: Sequence[str]
    owns_head: bool


def source_of(config: RunConfig, task: Any, train: Rows, folder: Path) -> Source:
    """The model of a run: found, or made in `folder/base_model` if its name starts with `new:`.

    Raises:
        ModelError: nothing usable is there.
    """
    return make(config, task, train, folder) if is_new(config.model) else locate(config.model)


def make(config: RunConfig, task: Texts, train: Rows, folder: Path) -> Source:
    """Write random weights and a tokenizer, unless the folder has them already.

    Raises:
        SaveError: the disk is full or not writable; nothing half-written stays.
    """
    place = folder / "base_model"
    tokenizer = tokenizer_for(config, task, train)
    note = {
        "model": config.model, "new": config.new.model_dump(), "seed": config.seed, "code": CODE, "rows": train.sha256,
        "vocabulary": len(tokenizer),
    }  # fmt: skip
    if not _is_there(place, note):

        def fill(new: Path) -> None:
            _random_model(config, tokenizer).save_pretrained(new)
            tokenizer.save_pretrained(new)
            (new / NOTE).write_text(json.dumps(note), encoding="utf-8")

        durable.write_folder(place, fill)
    return Source(config.model, str(place.resolve()), weights_sha256(place))


def _is_there(place: Path, note: dict[str, Any]) -> bool:
    try:
        return bool(json.loads((place / NOTE).read_text(encoding="utf-8")) == note)
    except (OSError, ValueError):
        return False


def _random_model(config: RunConfig, tokenizer: Any) -> Any:
    import torch

    from tunesmith.models.recurrent import RecurrentConfig, RecurrentForCausalLM, RecurrentModel

    chosen = config.new
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
    try:
        settings = RecurrentConfig(
            cell=config.model.removeprefix(NEW), vocab_size=len(tokenizer), hidden_size=chosen.hidden, embedding_size=chosen.embedding,
            num_hidden_layers=chosen.layers, dropout=chosen.dropout, bidirectional=chosen.bidirectional,
            tie_word_embeddings=chosen.tie_weights and not chosen.bidirectional, pad_token_id=tokenizer.pad_token_id,
            bos_token_id=start, eos_token_id=end,
        )  # fmt: skip
    except Exception as error:  # the configuration's own validation wraps its sentence
        raise ModelError(
            f"`{config.model}`: {str(error).strip().splitlines()[-1].strip()}; change it under `new`."
        ) from error
    with torch.random.fork_rng():
        torch.manual_seed(derive(config.seed, "new"))
        # Without a language-model head where there cannot be one.
        return (RecurrentModel if chosen.bidirectional else RecurrentForCausalLM)(settings)


def tokenizer_for(config: RunConfig, task: Texts, train: Rows) -> Any:
    """The tokenizer that `new.tokenizer` names, or byte-level BPE trained on the training rows (once for all runs on them).

    Raises:
        ModelError: it cannot be opened.
    """
    named = config.new.tokenizer
    if named:
        if named.startswith("asset:"):
            return load_tokenizer(locate(named))
        path = Path(named).expanduser()
        return load_tokenizer(Source(named, str(path.resolve()) if path.is_dir() else named, ""))
    columns = [c for c in (*task.inputs, *(() if task.owns_head else task.targets)) if c in train.table.column_names]
    listed = any(isinstance(train.table[0][column], list) for column in columns)

    def fit(folder: Path) -> None:
        say(f"Training a byte-level BPE tokenizer on {len(train.table):,} rows.")
        train_tokenizer(texts(train, columns), config.new.vocabulary, words=listed).save_pretrained(folder)

    key = store.key_of(rows=train.sha256, columns=columns, size=config.new.vocabulary, words=listed, code=CODE)
    return load_tokenizer(Source(config.model, str(store.folder("tokenizers", key, fit)), ""))


def train_tokenizer(lines: Iterator[str], vocabulary: int, *, words: bool = False) -> Any:
    """Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019, section 2.2) as a transformers tokenizer.

    Args:
        lines: what to learn it from.
        vocabulary: tokens at most, the 256 bytes and the three special ones among them.
        words: texts will come as lists of words, so that each stands for a word after a space.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=words)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, min_frequency=2, special_tokens=[PAD, START, END], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    core.train_from_iterator(lines, trainer)
    frame = processors.TemplateProcessing(
        single=f"{START} $A {END}", pair=f"{START} $A {END} $B:1 {END}:1", special_tokens=[(START, 1), (END, 2)]
    )
    core.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), frame])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, bos_token=START, eos_token=END, add_prefix_space=words,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def texts(rows: Rows, columns: Sequence[str]) -> Iterator[str]:
    """Everything that is text in some columns: cells, words joined, strings inside JSON."""
    for start in range(0, len(rows.table), 1000):
        block = rows.table[start : start + 1000]
        for column in columns:
            for value in block[column]:
                yield from _texts(value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if value[:1] in ("[", "{"):  # messages and answers are kept as JSON text
            try:
                yield from _strings(json.loads(value))
                return
            except ValueError:
                pass
        yield value
    elif isinstance(value, list):
        yield " ".join(word for word in value if isinstance(word, str))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)
