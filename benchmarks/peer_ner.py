"""The peer: transformers' Trainer on tagged words, after its own example of token classification (run_ner).

The words go through a fast tokenizer with `is_split_into_words`, the first sub-token of each carries its tag, and seqeval scores
what comes out. Run as a process of its own by `ner_vs_trainer.py`; prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from datasets import Dataset
from seqeval.metrics import f1_score, precision_score, recall_score
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)


class Clock(TrainerCallback):
    """Time from the start of the first step to the end of the last."""

    def __init__(self):
        self.start = self.end = 0.0

    def on_train_begin(self, *_, **__):
        self.start = time.perf_counter()

    def on_step_end(self, *_, **__):
        self.end = time.perf_counter()


def main():
    parser = argparse.ArgumentParser()
    for name in ("model", "train", "eval"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--technique", choices=["full", "lora"])
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--output")
    args = parser.parse_args()

    set_seed(args.seed)
    rows = {
        role: [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        for role, path in (("train", args.train), ("eval", args.eval))
    }
    types = sorted({tag[2:] for row in rows["train"] for tag in row["ner_tags"] if tag != "O"})
    labels = ["O", *(f"{prefix}-{kind}" for kind in types for prefix in "BI")]
    index = {label: i for i, label in enumerate(labels)}
    tokenizer = AutoTokenizer.from_pretrained(args.model)

    def encode(row):
        encoded = tokenizer(row["tokens"], is_split_into_words=True, truncation=True, max_length=args.max_length)
        owners, found = encoded.word_ids(), []
        for before, owner in zip([None, *owners], owners, strict=False):
            found.append(-100 if owner is None or owner == before else index[row["ner_tags"][owner]])
        return {**encoded, "labels": found}

    sets = {
        role: Dataset.from_list([{"tokens": r["tokens"], "ner_tags": r["ner_tags"]} for r in part]).map(
            encode, remove_columns=["tokens", "ner_tags"]
        )
        for role, part in rows.items()
    }
    model = AutoModelForTokenClassification.from_pretrained(
        args.model, num_labels=len(labels), id2label=dict(enumerate(labels)), label2id=index
    )
    if args.technique == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(
            model,
            LoraConfig(task_type="TOKEN_CLS", r=16, lora_alpha=32, lora_dropout=0.05, target_modules=["query", "key", "value", "dense"]),
        )  # fmt: skip
    arguments = TrainingArguments(
        output_dir=args.output, per_device_train_batch_size=args.batch_size, per_device_eval_batch_size=64, learning_rate=args.learning_rate,
        max_steps=args.max_steps, warmup_steps=0.06, weight_decay=0.01, seed=args.seed, save_strategy="no", logging_steps=50, report_to=[],
        disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    clock = Clock()
    trainer = Trainer(
        model=model, args=arguments, train_dataset=sets["train"], data_collator=DataCollatorForTokenClassification(tokenizer),
        callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    output = trainer.predict(sets["eval"])
    guesses = output.predictions.argmax(-1)
    true, predicted = [], []
    for guess, gold in zip(guesses, output.label_ids, strict=True):
        kept = gold != -100
        true.append([labels[i] for i in gold[kept]])
        predicted.append([labels[i] for i in guess[kept]])
    print(json.dumps({
        "tool": "transformers Trainer", "technique": args.technique, "seed": args.seed, "f1": float(f1_score(true, predicted)),
        "precision": float(precision_score(true, predicted)), "recall": float(recall_score(true, predicted)),
        "loss": float(output.metrics["test_loss"]), "train_seconds": clock.end - clock.start, "steps": trainer.state.global_step,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
