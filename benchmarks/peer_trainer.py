"""The peer: transformers' Trainer (and peft for LoRA) on the same rows, as its documentation shows it.

Run as a process of its own by `classification_vs_trainer.py`; prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
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
    parser.add_argument("--model")
    parser.add_argument("--train")
    parser.add_argument("--eval")
    parser.add_argument("--technique", choices=["full", "lora"])
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--max-steps", type=int, default=-1)
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--tuned", action="store_true", help="length grouping and bf16 autocast, as its documentation allows"
    )
    parser.add_argument("--output", default="/tmp/peer")
    args = parser.parse_args()

    set_seed(args.seed)
    rows = {
        name: [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        for name, path in (("train", args.train), ("eval", args.eval))
    }
    labels = sorted({row["label"] for row in rows["train"]})
    tokenizer = AutoTokenizer.from_pretrained(args.model)

    def encode(block):
        encoded = tokenizer(block["text"], truncation=True, max_length=256)
        encoded["labels"] = [labels.index(label) for label in block["label"]]
        return encoded

    sets = {
        name: Dataset.from_list([{"text": r["text"], "label": r["label"]} for r in part]).map(
            encode, batched=True, remove_columns=["text", "label"]
        )
        for name, part in rows.items()
    }
    model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=len(labels))
    if args.technique == "lora":
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            task_type="SEQ_CLS",
            r=16,
            lora_alpha=32,
            lora_dropout=0.05,
            target_modules=["query", "key", "value", "dense"],
        )
        config.exclude_modules = ".*pooler.*"
        model = get_peft_model(model, config)
    extra = {"train_sampling_strategy": "group_by_length", "bf16": True} if args.tuned else {}
    arguments = TrainingArguments(
        output_dir=args.output, per_device_train_batch_size=16, per_device_eval_batch_size=64, learning_rate=args.learning_rate,
        num_train_epochs=args.epochs, max_steps=args.max_steps, warmup_steps=0.06, weight_decay=0.01, seed=args.seed, save_strategy="no",
        logging_steps=50, report_to=[], disable_tqdm=True, use_cpu=True, **extra,
    )  # fmt: skip
    clock = Clock()
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=sets["train"],
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[clock],
    )
    trainer.train()
    seconds = clock.end - clock.start
    predicted = trainer.predict(sets["eval"]).predictions.argmax(-1)
    accuracy = float(np.mean(predicted == np.asarray([labels.index(r["label"]) for r in rows["eval"]])))
    tokens = sum(len(ids) for ids in sets["train"]["input_ids"]) * args.epochs
    import torch

    from tunesmith.evaluation.cost import peak_memory

    print(json.dumps({
        "tool": "transformers Trainer" + (" + peft" if args.technique == "lora" else "") + (" (tuned)" if args.tuned else ""),
        "technique": args.technique, "seed": args.seed, "accuracy": accuracy, "train_seconds": seconds,
        "tokens_per_second": tokens / seconds, "peak_memory_bytes": peak_memory(torch.device("cpu")),
        "steps": trainer.state.global_step,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
