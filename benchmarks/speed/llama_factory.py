"""LLaMA-Factory's LoRA fine-tuning, called from Python as its command line calls it, in an environment of its own; prints one JSON object.

It encodes rows itself, from the same texts under its template `empty`, so that tokens are the same but for marks around them. `tuned` batches rows of
like length, and on a GPU holds the weights in bf16 (`pure_bf16`, which it refuses on a CPU).
"""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from clock import Steps, answer, spec

# It is imported for sounds that nobody trains on here, and its builds want CUDA's libraries.
sounds = ModuleType("torchaudio")
sounds.__spec__ = ModuleSpec("torchaudio", None)
sys.modules["torchaudio"] = sounds

from llamafactory.train.tuner import run_exp  # noqa: E402
from transformers import TrainerCallback  # noqa: E402


class Clock(TrainerCallback):
    """Times of the steps."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.steps.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.steps.end()


def dataset(folder: Path, name: str, path: str) -> dict[str, Any]:
    """Rows in the form that it reads; returns their entry of dataset_info.json."""
    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    told = [{"instruction": row["prompt"], "input": "", "output": row["completion"]} for row in rows]
    (folder / f"{name}.json").write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")
    return {"file_name": f"{name}.json"}


def main() -> None:
    """One run."""
    given = spec()
    folder = Path(given["output"]).with_name("llama-factory")
    folder.mkdir(parents=True, exist_ok=True)
    known = {name: dataset(folder, name, given[role]) for name, role in (("own", "rows"), ("held", "eval"))}
    (folder / "dataset_info.json").write_text(json.dumps(known), encoding="utf-8")
    steps = Steps()
    pure = given["tuned"] and given["device"] == "cuda"
    settings: dict[str, Any] = {"pure_bf16" if pure else "bf16": True} if given["bf16"] else {}
    if given["tuned"]:
        settings["train_sampling_strategy"] = "group_by_length"
    run_exp(
        {
            "stage": "sft", "do_train": True, "do_eval": True, "model_name_or_path": given["model"], "finetuning_type": "lora", "lora_target": "all",
            "lora_rank": 16, "lora_alpha": 32, "lora_dropout": given["dropout"], "dataset_dir": str(folder), "dataset": "own", "eval_dataset": "held",
            "template": "empty", "cutoff_len": given["max_length"], "per_device_train_batch_size": given["batch_size"],
            "gradient_accumulation_steps": 1, "learning_rate": given["learning_rate"], "num_train_epochs": float(given["epochs"]), "warmup_steps": 1,
            "weight_decay": 0.01, "seed": given["seed"], "save_strategy": "no", "logging_steps": 50, "report_to": "none", "disable_tqdm": True,
            "output_dir": str(folder / "run"), "overwrite_output_dir": True, "use_cpu": given["device"] == "cpu", **settings,
        },
        callbacks=[Clock(steps)],
    )  # fmt: skip
    found = json.loads((folder / "run" / "eval_results.json").read_text(encoding="utf-8"))
    answer(
        given["device"],
        ends=steps.ends,
        first_step_at=steps.first_at,
        steps=len(steps.ends),
        loss=found["eval_loss"],
    )


if __name__ == "__main__":
    main()
