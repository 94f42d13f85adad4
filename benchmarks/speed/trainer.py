"""transformers' Trainer, with peft and bitsandbytes where the case asks for them, as their documentation shows it.

`as it comes` changes nothing that the documentation does not ask for; `tuned` adds what it offers for speed: batches of like length, and
weights held in bf16 where the case computes in bf16. Reads a file with the case, prints one JSON object.
"""

from __future__ import annotations

from typing import Any

import torch
from clock import Steps, answer, encoded, spec
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

ALL_LINEAR = {"bert": ["query", "key", "value", "dense"]}


class Clock(TrainerCallback):
    """Times of the steps."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.steps.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.steps.end()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.steps.finish()


class Distilling(Trainer):
    """Soft targets of a teacher that runs beside the student (the knowledge distillation guide of transformers)."""

    teacher: Any
    temperature: float

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """KL between softened distributions, and the labels' loss."""
        outputs = model(**inputs)
        with torch.no_grad():
            told = self.teacher(**inputs)
        t = self.temperature
        soft = torch.nn.functional.kl_div(
            (outputs.logits / t).log_softmax(-1), (told.logits / t).softmax(-1), reduction="batchmean"
        )
        loss = 0.5 * soft * t * t + 0.5 * outputs.loss
        return (loss, outputs) if return_outputs else loss


def load(given: dict[str, Any], model: str) -> Any:
    """The model as the case wants it."""
    settings: dict[str, Any] = {}
    if given["bf16"] and given["tuned"]:
        settings["dtype"] = torch.bfloat16
    if given["kind"] == "classification":
        return AutoModelForSequenceClassification.from_pretrained(model, num_labels=given["labels"], **settings)
    if given["technique"] == "qlora":
        from transformers import BitsAndBytesConfig

        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    return AutoModelForCausalLM.from_pretrained(model, **settings)


def attach(given: dict[str, Any], model: Any) -> Any:
    """The technique."""
    if given["technique"] == "feature-based":
        for parameter in model.base_model.parameters():
            parameter.requires_grad = False
    if given["technique"] == "bitfit":
        for name, parameter in model.named_parameters():
            parameter.requires_grad = "bias" in name or "classifier" in name
    if given["technique"] in ("full", "feature-based", "bitfit"):
        return model
    from peft import (
        IA3Config,
        LoraConfig,
        PrefixTuningConfig,
        PromptTuningConfig,
        get_peft_model,
        prepare_model_for_kbit_training,
    )

    kind: Any = {"task_type": "SEQ_CLS" if given["kind"] == "classification" else "CAUSAL_LM"}
    if given["technique"] == "ia3":
        return get_peft_model(model, IA3Config(**kind))
    if given["technique"] == "prompt-tuning":
        return get_peft_model(model, PromptTuningConfig(num_virtual_tokens=20, **kind))
    if given["technique"] == "prefix-tuning":
        return get_peft_model(model, PrefixTuningConfig(num_virtual_tokens=20, **kind))
    if given["technique"] == "qlora":
        model = prepare_model_for_kbit_training(model)
    config = LoraConfig(
        r=16, lora_alpha=32, lora_dropout=given["dropout"], use_dora=given["technique"] == "dora",
        target_modules=ALL_LINEAR.get(model.config.model_type, "all-linear"), **kind,
    )  # fmt: skip
    if model.config.model_type == "bert":
        config.exclude_modules = ".*pooler.*"
    return get_peft_model(model, config)


def main() -> None:
    """One run."""
    given = spec()
    set_seed(given["seed"])
    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = attach(given, load(given, given["model"]))
    rows, held = encoded(given["encoded"]), encoded(given["encoded_eval"])
    collate: Any = (
        DataCollatorWithPadding(tokenizer) if given["kind"] == "classification" else DataCollatorForSeq2Seq(tokenizer)
    )
    arguments = TrainingArguments(
        output_dir=given["output"], per_device_train_batch_size=given["batch_size"], per_device_eval_batch_size=16,
        learning_rate=given["learning_rate"], num_train_epochs=given["epochs"], max_steps=given["steps"] or -1, warmup_steps=0.06,
        weight_decay=0.01, seed=given["seed"], save_strategy="no", logging_steps=50, report_to=[], disable_tqdm=True, use_cpu=given["device"] == "cpu",
        bf16=given["bf16"] and not given["tuned"], gradient_checkpointing=given["technique"] == "qlora" and not given["tuned"],
        train_sampling_strategy="group_by_length" if given["tuned"] else "random",
    )  # fmt: skip
    steps = Steps()
    cls = Distilling if given.get("teacher") else Trainer
    trainer = cls(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=held,
        data_collator=collate,
        callbacks=[Clock(steps)],
    )
    if given.get("teacher"):
        trainer.teacher = load(given, given["teacher"]).eval()
        trainer.temperature = 2.0
    trainer.train()
    quality: dict[str, Any]
    if given["kind"] == "classification":
        predicted = trainer.predict(held)
        right = predicted.predictions.argmax(-1) == [row["labels"] for row in held]
        quality = {
            "loss": None if given.get("teacher") else predicted.metrics["test_loss"],
            "accuracy": float(right.mean()),
        }
    else:
        quality = {"loss": trainer.evaluate()["eval_loss"]}
    answer(given["device"], ends=steps.ends, first_step_at=steps.first_at, steps=trainer.state.global_step, **quality)


if __name__ == "__main__":
    main()
