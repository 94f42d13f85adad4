"""The peer: transformers' Trainer on extractive questions, put together as its question-answering example does.

Windows come from the fast tokenizer's overflow, the loss is the model's own, and answers are sought among the 20 best starts and
ends of every window by their raw scores. Run as a process of its own by `qa_vs_trainer.py`; prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

BEST = 20


class Clock(TrainerCallback):
    """Time from the start of the first step to the end of the last."""

    def __init__(self):
        self.start = self.end = 0.0

    def on_train_begin(self, *_, **__):
        self.start = time.perf_counter()

    def on_step_end(self, *_, **__):
        self.end = time.perf_counter()


def windows(rows, tokenizer, length, stride):
    """Features of all rows, and for each the row it belongs to and the characters of its context tokens."""
    encoded = tokenizer(
        [r["question"].strip() for r in rows], [r["context"] for r in rows], truncation="only_second", max_length=length, stride=stride,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    owners = encoded.pop("overflow_to_sample_mapping")
    offsets = encoded.pop("offset_mapping")
    features, places = [], []
    for i, owner in enumerate(owners):
        parts = encoded.sequence_ids(i)
        spans = [span if part == 1 else None for span, part in zip(offsets[i], parts, strict=True)]
        begin, end = next(k for k, s in enumerate(spans) if s), max(k for k, s in enumerate(spans) if s)
        answer = rows[owner]["answers"]
        first, last = 0, 0  # [CLS]
        for text, start in zip(answer["text"], answer["answer_start"], strict=True):
            stop = start + len(text)
            if spans[begin][0] <= start and spans[end][1] >= stop:
                first = max(k for k in range(begin, end + 1) if spans[k][0] <= start)
                last = min(k for k in range(begin, end + 1) if spans[k][1] >= stop)
                break
        features.append({**{n: encoded[n][i] for n in encoded}, "start_positions": first, "end_positions": last})
        places.append((owner, spans))
    return features, places


def best_texts(rows, places, starts, ends, longest):
    """The best span of each row over its windows."""
    best = [(-np.inf, "")] * len(rows)
    for (owner, spans), start, end in zip(places, starts, ends, strict=True):
        for i in np.argsort(-start)[:BEST]:
            for j in np.argsort(-end)[:BEST]:
                if i >= len(spans) or j >= len(spans) or not spans[i] or not spans[j] or j < i or j - i + 1 > longest:
                    continue
                if start[i] + end[j] > best[owner][0]:
                    best[owner] = (start[i] + end[j], rows[owner]["context"][spans[i][0] : spans[j][1]])
    return [text for _, text in best]


def main():
    parser = argparse.ArgumentParser()
    for name in ("model", "train", "eval", "output"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--length", type=int)
    parser.add_argument("--stride", type=int)
    parser.add_argument("--longest", type=int, help="tokens of the longest answer")
    args = parser.parse_args()

    set_seed(args.seed)
    rows = {
        name: [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        for name, path in (("train", args.train), ("eval", args.eval))
    }
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    train, _ = windows(rows["train"], tokenizer, args.length, args.stride)
    test, places = windows(rows["eval"], tokenizer, args.length, args.stride)
    model = AutoModelForQuestionAnswering.from_pretrained(args.model)
    arguments = TrainingArguments(
        output_dir=args.output, per_device_train_batch_size=16, per_device_eval_batch_size=64, learning_rate=args.learning_rate,
        num_train_epochs=args.epochs, warmup_steps=0.06, weight_decay=0.01, seed=args.seed, save_strategy="no", logging_steps=50,
        report_to=[], disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    clock = Clock()
    trainer = Trainer(
        model=model, args=arguments, train_dataset=Dataset.from_list(train), data_collator=DataCollatorWithPadding(tokenizer), callbacks=[clock]
    )  # fmt: skip
    trainer.train()
    starts, ends = trainer.predict(Dataset.from_list(test)).predictions[:2]
    from torchmetrics.functional.text import squad

    found = best_texts(rows["eval"], places, starts, ends, args.longest)
    score = squad(
        [{"id": str(i), "prediction_text": text} for i, text in enumerate(found)],
        [{"id": str(i), "answers": row["answers"]} for i, row in enumerate(rows["eval"])],
    )
    print(json.dumps({
        "tool": "transformers Trainer", "seed": args.seed, "f1": float(score["f1"]) / 100, "exact_match": float(score["exact_match"]) / 100,
        "train_seconds": clock.end - clock.start, "steps": trainer.state.global_step,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
