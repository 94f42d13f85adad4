"""tunesmith as a person would call it; reads a file with the case, prints one JSON object."""

from __future__ import annotations

from clock import answer, spec
from rows import OPTIONS

import tunesmith
from tunesmith.training.log import read


def main() -> None:
    """One run."""
    given = spec()
    lora = {"lora": {"rank": 16, "alpha": 32, "dropout": given["dropout"]}} if "lora" in given["technique"] else {}
    if given["technique"] == "qlora":
        lora = {"qlora": lora["lora"]}
    teacher = {"teacher": given["teacher"], "objective": "distillation"} if given.get("teacher") else {}
    run = tunesmith.train(
        given["model"], task=given["task"], technique=given["technique"], train=given["rows"], eval=given["eval"], seed=given["seed"],
        batch_size=given["batch_size"], max_length=given["max_length"], learning_rate=given["learning_rate"],
        dtype={True: "bfloat16", False: "auto"}[given["bf16"]], output=given["output"], overwrite=True, doctor=False, device=given["device"],
        # The peers have one rate for everything, and losses are compared.
        training={"log_every": 1 if given["device"] == "cpu" else 50, "head_learning_rate": None},
        **({"max_steps": given["steps"]} if given["steps"] else {"epochs": given["epochs"]}),
        **{name: options for name, options in OPTIONS.items() if name == given["task"]}, **lora, **teacher,
    )  # fmt: skip
    lines = [line for line in read(run.folder / "metrics.jsonl") if line["event"] == "train"]
    after = run.result["metrics"]["after"]
    # With the one pass of a frozen backbone, and with what a teacher took: nothing of it was there before.
    once = run.result["cost"]["train_seconds"] - lines[-1]["seconds"]
    once += ((run.result.get("distillation") or {}).get("outputs") or {}).get("seconds", 0.0)
    answer(
        given["device"], ends=[once + line["seconds"] for line in lines], steps=run.result["training"]["steps"], dtype=run.result["training"]["dtype"],
        loss=after.get("loss"), accuracy=after.get("accuracy"), metrics=after,
        planned={name: run.result["cost"][f"predicted_{name}"] for name in ("seconds", "memory_bytes")},
    )  # fmt: skip


if __name__ == "__main__":
    main()
