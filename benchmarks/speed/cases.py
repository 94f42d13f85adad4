"""The cases: what is trained, on what, and against whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PLAIN, TUNED = "Trainer as it comes", "Trainer, tuned"
TRL, TRL_TUNED = "TRL as it comes", "TRL, tuned"
FACTORY, FACTORY_TUNED = "LLaMA-Factory as it comes", "LLaMA-Factory, tuned"
ADAPTERS, ADAPTERS_TUNED = "adapters as it comes", "adapters, tuned"


@dataclass(frozen=True)
class Case:
    """One training that every contender does.

    Attributes:
        name: a letter and a word.
        what: a sentence for the table.
        model: an asset, or `random` for a Llama of 1.1 billion random parameters.
        task: of tunesmith.
        technique: what is trained.
        learning_rate: of everybody.
        rows: how many in the quick form, which are seen once (or `epochs` times).
        more: how many in the long form.
        supervised: share of the tokens that are learned (texts to write).
        middle: median length in words (texts to write).
        longest: most words (texts to write).
        batch_size: rows a step.
        max_length: tokens of a row at most.
        epochs: passes over the rows.
        bf16: whether everybody computes in bf16; else in what each takes by default.
        peers: whom it is measured against.
        rounds: repetitions in the quick form.
        teacher: whether a teacher is learned from.
    """

    name: str
    what: str
    model: str
    task: str
    technique: str
    learning_rate: float
    rows: int
    more: int
    supervised: float = 1.0
    middle: float = 70
    longest: int = 120
    batch_size: int = 8
    max_length: int = 256
    epochs: int = 1
    bf16: bool = False
    peers: tuple[str, ...] = (PLAIN, TUNED)
    rounds: int = 1
    teacher: bool = False
    more_settings: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What the peers load: a classifier or a model that writes."""
        return "classification" if self.task == "text-classification" else "causal"


CLASSES: dict[str, Any] = {"model": "minilm", "task": "text-classification", "batch_size": 16}
WRITERS = (PLAIN, TUNED, TRL, TRL_TUNED, FACTORY, FACTORY_TUNED)
WRITES: dict[str, Any] = {"task": "instruction", "learning_rate": 2e-4, "bf16": True}
CASES = [
    Case("a", "LoRA r=16 on gemma3-270m, about 20 % of the tokens supervised, bf16", model="gemma3-270m", technique="lora", rows=16, more=32,
         supervised=0.25, peers=WRITERS, **WRITES),
    Case("b", "LoRA r=16 on smollm2-135m, about 85 % supervised, bf16", model="smollm2-135m", technique="lora", rows=24, more=40,
         supervised=0.98, middle=95, peers=WRITERS, **WRITES),
    Case("c", "full fine-tuning of minilm, texts of mixed length", technique="full", learning_rate=5e-5, rows=240, more=320, **CLASSES),
    Case("d", "LoRA on minilm, texts of mixed length", technique="lora", learning_rate=5e-4, rows=240, more=320,
         peers=(PLAIN, TUNED, ADAPTERS, ADAPTERS_TUNED), **CLASSES),
    Case("e", "feature-based on minilm, 3 epochs", technique="feature-based", learning_rate=1e-3, rows=240, more=320, epochs=3, **CLASSES),
    Case("f", "distillation of minilm into bert-tiny, 3 epochs", technique="full", learning_rate=5e-4, rows=320, more=400, epochs=3,
         teacher=True, **{**CLASSES, "model": "bert-tiny"}),
    Case("g", "QLoRA (nf4) on smollm2-135m", model="smollm2-135m", technique="qlora", rows=32, more=40, supervised=0.98, middle=95, **WRITES),
]  # fmt: skip
GPU: dict[str, Any] = {
    "rounds": 2,
    "middle": 230,
    "longest": 370,
    "supervised": 0.9,
    "max_length": 512,
    "peers": (TUNED, TRL, TRL_TUNED),
    **WRITES,
}
GPU_CASES = [
    Case("j", "LoRA r=16 on smollm2-135m, bf16, on a GPU", model="smollm2-135m", technique="lora", rows=2048, more=8192, **{**GPU, "batch_size": 16}),
    Case("k", "LoRA r=16 on a Llama of 1.1 billion random parameters, bf16, on a GPU", model="random", technique="lora", rows=768, more=4096, **GPU),
]  # fmt: skip
SCREENED = ("full", "feature-based", "bitfit", "lora", "dora", "ia3", "prompt-tuning", "prefix-tuning")
SCREENING = Case("h", "screening of 8 techniques on minilm, against 8 separate runs", technique="", learning_rate=5e-4, rows=160, more=240, **CLASSES)  # fmt: skip
