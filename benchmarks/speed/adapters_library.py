"""The `adapters` library's AdapterTrainer with LoRA, as its documentation shows it, in an environment of its own; prints one JSON object.

`tuned` adds batches of like length. Its LoRA takes query, key, value and both layers of the feed-forward block; the attention's output layer, which
the others adapt too, it has no option for.
"""

from __future__ import annotations

from typing import Any

from adapters import AdapterTrainer, AutoAdapterModel, LoRAConfig
from clock import Steps, answer, encoded, spec
from transformers import AutoTokenizer, DataCollatorWithPadding, TrainerCallback, TrainingArguments, set_seed


class Clock(TrainerCallback):
    """Times of the steps."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.steps.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.steps.end()


def main() -> None:
    """One run."""
    given = spec()
    set_seed(given["seed"])
    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    model = AutoAdapterModel.from_pretrained(given["model"])
    lora = LoRAConfig(
        r=16,
        alpha=32,
        dropout=given["dropout"],
        attn_matrices=["q", "k", "v"],
        intermediate_lora=True,
        output_lora=True,
    )
    model.add_adapter("own", config=lora)
    model.add_classification_head("own", num_labels=given["labels"])
    model.train_adapter("own")
    arguments = TrainingArguments(
        output_dir=given["output"], per_device_train_batch_size=given["batch_size"], per_device_eval_batch_size=16,
        learning_rate=given["learning_rate"], num_train_epochs=given["epochs"], max_steps=given["steps"] or -1, warmup_ratio=0.06,
        weight_decay=0.01, seed=given["seed"], save_strategy="no", logging_steps=50, report_to=[], disable_tqdm=True, use_cpu=True,
        group_by_length=given["tuned"],
    )  # fmt: skip
    steps = Steps()
    trainer = AdapterTrainer(
        model=model,
        args=arguments,
        train_dataset=encoded(given["encoded"]),
        eval_dataset=encoded(given["encoded_eval"]),
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[Clock(steps)],
    )
    trainer.train()
    predicted = trainer.predict(encoded(given["encoded_eval"]))
    right = predicted.predictions.argmax(-1) == predicted.label_ids
    answer(
        given["device"],
        ends=steps.ends,
        first_step_at=steps.first_at,
        steps=trainer.state.global_step,
        loss=predicted.metrics["test_loss"],
        accuracy=float(right.mean()),
    )


if __name__ == "__main__":
    main()
