"""TRL's SFTTrainer with peft, as its documentation shows it; reads a file with the case, prints one JSON object."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from clock import Steps, answer, encoded, spec
from datasets import Dataset
from peft import LoraConfig
from trainer import Clock
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main() -> None:
    """One run."""
    given = spec()
    settings: dict[str, Any] = {"dtype": torch.bfloat16} if given["tuned"] else {}
    model = AutoModelForCausalLM.from_pretrained(given["model"], **settings)
    arguments = SFTConfig(
        output_dir=given["output"], per_device_train_batch_size=given["batch_size"], per_device_eval_batch_size=16,
        learning_rate=given["learning_rate"], num_train_epochs=given["epochs"], max_steps=given["steps"] or -1, warmup_steps=0.06,
        weight_decay=0.01, seed=given["seed"], save_strategy="no", logging_steps=50, report_to=[], disable_tqdm=True, use_cpu=given["device"] == "cpu",
        bf16=given["bf16"] and not given["tuned"], max_length=given["max_length"], gradient_checkpointing=not given["tuned"],
        train_sampling_strategy="group_by_length" if given["tuned"] else "random", dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    if given["tuned"] and given["device"] != "cpu" and find_spec("liger_kernel"):
        arguments.use_liger_kernel = True
    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    steps = Steps()
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_list(encoded(given["encoded"])),
        eval_dataset=Dataset.from_list(encoded(given["encoded_eval"])), processing_class=tokenizer, callbacks=[Clock(steps)],
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=given["dropout"], target_modules="all-linear"),
    )  # fmt: skip
    trainer.train()
    answer(
        given["device"],
        ends=steps.ends,
        first_step_at=steps.first_at,
        steps=trainer.state.global_step,
        loss=trainer.evaluate()["eval_loss"],
    )


if __name__ == "__main__":
    main()
