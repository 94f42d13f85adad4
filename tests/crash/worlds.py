"""What is killed: small runs that together go through every part that writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for, toy_rows

COMMON = {"batch_size": 8, "dtype": "float32", "learning_rate": 1e-2, "device": "cpu", "doctor": False}
TRAINING = {"checkpoint_every": 2, "log_every": 1}
COLOURS = [{"text": f"the {c} book {i}", "label": c} for i in range(8) for c in ("red", "blue", "green")]


@dataclass(frozen=True)
class World:
    """A command to kill.

    Attributes:
        name: in the table.
        verb: `train` or `compare`.
        settings: of its configuration.
        rows: files that it needs.
        model: kind of the tiny model.
    """

    name: str
    settings: dict[str, Any]
    rows: dict[str, list[dict[str, Any]]]
    model: str = "bert"
    verb: str = "train"

    def build(self, folder: Path) -> list[str]:
        """Write its files; the command, but for `--output`."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in self.rows.items():
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        tiny_model(self.model, folder / self.model)
        if "teacher" in self.settings:
            tiny_model(self.model, folder / "teacher", seed=3)
        own = {k: v for k, v in self.settings.items() if k != "training"}
        settings = {
            **COMMON,
            "epochs": 2,
            "model": self.model,
            **own,
            "training": {**TRAINING, **self.settings.get("training", {})},
        }
        text = yaml.safe_dump(_placed(settings, folder))
        (folder / "settings.yaml").write_text(text, encoding="utf-8")
        return [self.verb, "--config", str(folder / "settings.yaml")]


def _placed(value: Any, folder: Path) -> Any:
    """Names of files of the world as whole paths."""
    if isinstance(value, dict):
        return {key: _placed(each, folder) for key, each in value.items()}
    if isinstance(value, list):
        return [_placed(each, folder) for each in value]
    here = isinstance(value, str) and value and (folder / value).exists()
    return str(folder / value) if here else value


def _stream(strategy: str, **more: Any) -> dict[str, Any]:
    stages = [
        {"name": "films", "train": "films.jsonl", "eval": "films.jsonl"},
        {"name": "colours", "train": "colours.jsonl", "eval": "colours.jsonl"},
        {"name": "words", "task": "token-classification", "train": "words.jsonl", "eval": "words.jsonl"},
    ]
    return {"strategy": strategy, "stream": {"stages": stages}, **more}


ROWS = {"films": toy_rows(24), "colours": COLOURS, "words": rows_for("token-classification", 16)}
LINES = {"films": [{"text": row["text"]} for row in toy_rows(24)]}
TEXTS = {"texts": rows_for("summarization", 16)}
SHORT = {"summarization": {"generate_rows": 2, "max_new_tokens": 3}}
WORLDS = [
    World("full", {"technique": "full", "epochs": 4, "train": "films.jsonl", "training": {"keep_best": True, "evaluations": 3}}, ROWS),
    World("lora-dropout", {"technique": "lora", "train": "films.jsonl", "lora": {"dropout": 0.2}, "retain": "colours.jsonl"}, ROWS),
    World("feature-based", {"technique": "feature-based", "train": "films.jsonl"}, ROWS),
    World("prefix-llama-text", {"technique": "prefix-tuning", "task": "language-modeling", "train": "films.jsonl"}, LINES, "llama"),
    World("full-lstm-text", {"technique": "full", "task": "language-modeling", "train": "films.jsonl"}, LINES, "lstm"),
    World("adapter-t5-summaries", {"technique": "adapter", "task": "summarization", "train": "texts.jsonl", **SHORT}, TEXTS, "t5"),
    World(
        "distillation-gpt2-text",
        {"technique": "full", "task": "language-modeling", "train": "films.jsonl", "objective": "distillation", "teacher": "teacher"},
        LINES, "gpt2",
    ),
    World("ewc", _stream("ewc", technique="lora"), ROWS),
    World("experience-replay", _stream("experience-replay", technique="adapter"), ROWS),
    World("generative-replay", _stream("generative-replay", technique="lora", **{"generative-replay": {"generator_epochs": 1}}), ROWS),
    World("progressive", _stream("progressive", technique="full"), ROWS),
    World("lwf", _stream("lwf", technique="full"), ROWS),
    World("compare", {"techniques": ["lora", "bitfit"], "seeds": [0, 1], "baselines": ["majority"], "train": "films.jsonl", "epochs": 2}, ROWS, verb="compare"),
]  # fmt: skip
