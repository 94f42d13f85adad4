"""How much a batch of many adapters gains over one request at a time, and whether memory stays flat.

    python benchmarks/serving.py --output benchmarks/results/serving.json
    python benchmarks/serving.py --tiny --requests 200           a random model, in seconds, to see that it runs

A server of its own, eight random LoRA adapters, and three parts: the same requests one at a time and in 32 concurrent streams (which
of the two comes first alternates), the answers of both compared; then many short requests, the resident set noted along the way.
Requests do not stop at the end token, so that both parts write the same number of tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil

ADAPTERS, STREAMS = 8, 32
OPENINGS = (
    "Once upon a time there was", "The most important thing about cooking is", "A short letter to my landlord:", "Water boils at",
    "Three reasons to learn a language are", "The history of the bicycle began", "My favourite film is", "In the year 2050",
)  # fmt: skip


def make_adapters(base: str, folder: Path) -> dict[str, Path]:
    """Random LoRA adapters of rank 16 on all linear modules of the blocks."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from tunesmith.models.backbone import Backbone

    found = {}
    for number in range(ADAPTERS):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        targets = list(Backbone(model, owns_head=False).linears())
        made: Any = get_peft_model(
            model, LoraConfig(r=16, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM")
        )
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.01)
        found[f"a{number}"] = folder / f"a{number}"
        made.save_pretrained(found[f"a{number}"])
    return found


def start(base: str, adapters: dict[str, Path], dtype: str) -> tuple[subprocess.Popen[str], str]:
    """The server in a process of its own, and its address."""
    words = [f"--adapter={name}={folder}" for name, folder in adapters.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "tunesmith", "serve", "--model", base, *words, "--port", "0", "--dtype", dtype, "--max-batch", str(STREAMS)],
        stderr=subprocess.PIPE, text=True, env={k: v for k, v in os.environ.items() if k != "TUNESMITH_TOKEN"},
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        print(line, end="", file=sys.stderr)
        if " on http://" in line:
            return process, line.split(" on ")[1].split()[0]
    raise SystemExit(f"the server ended with {process.wait()}")


def ask(http: httpx.Client, name: str, prompt: str, tokens: int) -> dict[str, Any]:
    """One stream, read to its end."""
    body = {
        "model": name, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    begun, first, text, written = time.perf_counter(), 0.0, "", 0
    with http.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            first = first or time.perf_counter() - begun
            text += "".join(choice["text"] for choice in event["choices"])
            written = (event.get("usage") or {}).get("completion_tokens", written)
    return {"text": text, "seconds": time.perf_counter() - begun, "first": first, "tokens": written}


def play(http: httpx.Client, asked: Sequence[tuple[str, str]], tokens: int, streams: int) -> dict[str, Any]:
    """All requests, so many at a time."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(streams) as pool:
        answers = list(pool.map(lambda each: ask(http, *each, tokens), asked))
    seconds = time.perf_counter() - begun
    return {
        "streams": streams, "seconds": seconds, "tokens": sum(a["tokens"] for a in answers),
        "tokens_per_second": sum(a["tokens"] for a in answers) / seconds,
        "latency": quantiles([a["seconds"] for a in answers]), "first_token": quantiles([a["first"] for a in answers]),
        "texts": [a["text"] for a in answers],
    }  # fmt: skip


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """p50 and p95."""
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    return {"p50": statistics.median(values), "p95": cuts[18]}


def soak(http: httpx.Client, process: psutil.Process, names: Sequence[str], requests: int) -> list[dict[str, int]]:
    """Short requests of changing length, and the resident set after every tenth of them."""
    found = []
    part = max(1, requests // 10)
    with ThreadPoolExecutor(STREAMS) as pool:
        for start in range(0, requests, part):
            numbers = range(start, min(requests, start + part))
            list(
                pool.map(lambda i: ask(http, names[i % len(names)], OPENINGS[i % 8] * (1 + i % 5), 4 + i % 13), numbers)
            )
            found.append({"requests": numbers[-1] + 1, "resident_bytes": process.memory_info().rss})
            print(found[-1], file=sys.stderr)
    return found


def main() -> None:
    """Measure and print or write one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="asset:smollm2-135m")
    parser.add_argument("--tiny", action="store_true", help="a random model of two layers")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=2000, help="of the part that looks at memory")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if chosen.tiny:
            from transformers import AutoModelForCausalLM

            from tunesmith.testing import tiny_model

            base = str(tiny_model("llama", folder / "llama"))
            AutoModelForCausalLM.from_pretrained(base).save_pretrained(base)
        else:
            from tunesmith.models.load import locate

            base = locate(chosen.model).path
        adapters = make_adapters(base, folder)
        process, url = start(base, adapters, chosen.dtype)
        try:
            result = measure(url, psutil.Process(process.pid), list(adapters), chosen)
        finally:
            process.terminate()
            code = process.wait(120)
    result["exit_code"] = code
    text = json.dumps(result, indent=2) + "\n"
    if chosen.output:
        chosen.output.write_text(text, encoding="utf-8")
    print(text)


def measure(url: str, process: psutil.Process, names: list[str], chosen: argparse.Namespace) -> dict[str, Any]:
    """The three parts."""
    limits = httpx.Limits(max_connections=STREAMS, max_keepalive_connections=STREAMS)
    with httpx.Client(base_url=url, timeout=600, limits=limits) as http:
        asked = [(names[i % ADAPTERS], OPENINGS[i // ADAPTERS % len(OPENINGS)]) for i in range(STREAMS)]
        play(http, asked[:4], 4, 4)  # warm
        rounds: list[dict[str, Any]] = []
        for number in range(chosen.rounds):
            order = (1, STREAMS) if number % 2 == 0 else (STREAMS, 1)
            parts = {streams: play(http, asked, chosen.tokens, streams) for streams in order}
            one, many = parts[1], parts[STREAMS]
            same = sum(a == b for a, b in zip(one.pop("texts"), many.pop("texts"), strict=True))
            rounds.append(
                {
                    "ratio": one["seconds"] / many["seconds"],
                    "equal_answers": f"{same} of {len(asked)}",
                    "one": one,
                    "many": many,
                }
            )
            print(rounds[-1], file=sys.stderr)
        memory = soak(http, process, names, chosen.requests)
        metrics = http.get("/metrics").text.splitlines()
    steps = next(float(line.split()[1]) for line in metrics if line.startswith("tunesmith_steps_total "))
    half = memory[len(memory) // 2 :]
    return {
        "model": "tiny" if chosen.tiny else chosen.model, "adapters": ADAPTERS, "streams": STREAMS, "tokens": chosen.tokens,
        "dtype": chosen.dtype, "ratio": statistics.median(r["ratio"] for r in rounds), "rounds": rounds, "memory": memory,
        "growth_in_second_half_bytes": half[-1]["resident_bytes"] - half[0]["resident_bytes"], "steps": steps,
    }  # fmt: skip


if __name__ == "__main__":
    main()
