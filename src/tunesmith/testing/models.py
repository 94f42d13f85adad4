"""Tiny random models of each architecture, with a tokenizer, saved as folders that everything else opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

WORDS = " ".join(
    (
        "a an the this that film movie book was is not never very good bad great awful fine dull bright slow fast plot actor",
        "scene story i you we they like love hate enjoy find and or but with without of in on at to from one two three red",
        "blue green phim hay dở không",
    )
).split()

WIDTH = 32

SMALL: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


def _configs(size: int) -> dict[str, Any]:
    import transformers

    t: Any = transformers

    decoder = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128}
    ids: dict[str, Any] = {"vocab_size": size, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    from tunesmith.models.recurrent import RecurrentConfig

    def recurrent(cell: str, **more: Any) -> Any:
        return RecurrentConfig(**{"cell": cell, "hidden_size": WIDTH, "num_hidden_layers": 2, **more, **ids})

    def bert(**more: Any) -> Any:
        return t.BertConfig(**SMALL, **ids, **more, max_position_embeddings=128)

    return {
        "bert": bert,
        "distilbert": lambda: t.DistilBertConfig(dim=WIDTH, n_layers=2, n_heads=4, hidden_dim=64, **ids, max_position_embeddings=128),
        "roberta": lambda: t.RobertaConfig(**SMALL, **ids, max_position_embeddings=132),
        "xlm-roberta": lambda: t.XLMRobertaConfig(**SMALL, **ids, max_position_embeddings=132),
        "modernbert": lambda: t.ModernBertConfig(
            **SMALL, **ids, cls_token_id=2, sep_token_id=3, max_position_embeddings=128, local_attention=16
        ),
        "gpt2": lambda: t.GPT2Config(n_embd=WIDTH, n_layer=2, n_head=4, n_positions=128, **ids),
        "llama": lambda: t.LlamaConfig(**decoder, **ids),
        "qwen3": lambda: t.Qwen3Config(**decoder, **ids),
        "gemma3": lambda: t.Gemma3TextConfig(**decoder, **ids, sliding_window=64),
        "t5": lambda: t.T5Config(d_model=WIDTH, d_ff=64, num_layers=2, num_heads=4, d_kv=8, decoder_start_token_id=0, **ids),
        "bart": lambda: t.BartConfig(
            d_model=WIDTH, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
            encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=128, forced_eos_token_id=3, decoder_start_token_id=3, **ids,
        ),
        "bert2bert": lambda: t.EncoderDecoderConfig.from_encoder_decoder_configs(
            bert(), bert(is_decoder=True, add_cross_attention=True), decoder_start_token_id=2, pad_token_id=0, eos_token_id=3
        ),
        "lstm": lambda: recurrent("lstm"),
        "gru": lambda: recurrent("gru"),
        "rnn": lambda: recurrent("rnn"),
        "bilstm": lambda: recurrent("lstm", bidirectional=True, embedding_size=WIDTH, hidden_size=2 * WIDTH),
    }  # fmt: skip


KINDS = ("bert", "distilbert", "roberta", "modernbert", "gpt2", "llama", "qwen3", "gemma3", "t5", "bart", "lstm")
RECURRENT = ("rnn", "gru", "bilstm")
"""Further members of the recurrent family, which `lstm` stands for in `KINDS`."""
RELATED = ("xlm-roberta", "bert2bert")
"""Further members of families that `roberta` and `bart` stand for; the second is two encoders joined."""


def tiny_tokenizer(segments: bool) -> Any:
    """A word tokenizer over a few dozen words, with [CLS] and [SEP] around a text.

    Args:
        segments: whether it gives token_type_ids (BERT does; GPT-2 would add them to its words).
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {
        word: i for i, word in enumerate(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    }
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
        bos_token="[CLS]", eos_token="[SEP]", model_max_length=128,
        model_input_names=["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"],
    )  # fmt: skip


def tiny_model(kind: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a random model of two layers and width 32 into a folder (kept if it is there already).

    Args:
        kind: one of `KINDS`, `RECURRENT` or `RELATED`.
        folder: where to write it.
        seed: of the weights.
    """
    import transformers

    if (folder / "config.json").is_file():
        return folder
    tokenizer = tiny_tokenizer(kind == "bert")
    config = _configs(len(tokenizer))[kind]()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        joined = isinstance(config, transformers.EncoderDecoderConfig)
        model = (transformers.EncoderDecoderModel if joined else transformers.AutoModel.from_config)(config)
        with torch.no_grad():
            for parameter in model.parameters():  # larger than usual, so that differences show after a few steps
                if parameter.dim() > 1:
                    parameter.normal_(std=0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    json.loads((folder / "config.json").read_text())
    return folder
