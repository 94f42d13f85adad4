"""Random adapters on tiny models, and a real server around them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunesmith.testing import tiny_model

ADAPTERS = 8


def random_lora(base: Path, folder: Path, seed: int, scale: float = 0.3) -> Path:
    """A plain peft LoRA on all linear modules of the blocks, with random weights."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from tunesmith.models.backbone import Backbone

    model = AutoModelForCausalLM.from_pretrained(base)
    turned = any(type(m).__name__ == "Conv1D" for m in model.modules())
    targets = list(Backbone(model, owns_head=False).linears())
    made: Any = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=turned)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    made.save_pretrained(folder)
    return folder


def writer(kind: str, models: Path) -> Path:
    """The tiny model of an architecture with an output layer of its own, which every opening finds there."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    cls: Any = AutoModelForSeq2SeqLM if kind in ("t5", "bart") else AutoModelForCausalLM
    folder = models / f"{kind}-writer"
    if not (folder / "config.json").is_file():
        plain = tiny_model(kind, models / kind)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = cls.from_pretrained(plain)
            head = model.get_output_embeddings().weight
            if head is not model.get_input_embeddings().weight:
                torch.nn.init.normal_(head, std=0.3)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(plain).save_pretrained(folder)
    return folder


def random_artifact(base: Path, folder: Path, task: str, technique: str, seed: int = 0, **options: Any) -> Path:
    """An artifact of ours whose trained tensors are random."""
    from tunesmith import registry
    from tunesmith.artifacts.store import Reading, save
    from tunesmith.artifacts.use import _read
    from tunesmith.models.heads import Heads
    from tunesmith.models.load import load_model, load_tokenizer, locate
    from tunesmith.techniques._base import create
    from tunesmith.testing.rows import rows_for

    cls = registry.load("task", task)
    made = cls(cls.Options(**options))
    made.fit(_read(rows_for(task), {}, made))
    source = locate(str(base))
    loaded = load_model(source, load_tokenizer(source), made)
    method = create(technique)
    method.attach(loaded.backbone)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return save(folder, Heads(task, loaded), {task: Reading(made, 64)}, method, Origin(), {})


@dataclass
class Origin:
    """Where an artifact comes from."""

    seed: int = 0
    trust_remote_code: bool = False


@dataclass
class Running:
    """A server on a free port."""

    service: Any
    url: str

    def client(self, token: str = "none", **more: Any) -> Any:
        import openai

        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=token, **{"max_retries": 0, "timeout": 20, **more})

    def http(self, token: str | None = None) -> Any:
        import httpx

        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=20)


@contextmanager
def running(options: Any) -> Iterator[Running]:
    """A real uvicorn in a thread."""
    from tunesmith.serve.server import listen, make_server, open_service

    place = listen("127.0.0.1", 0)
    service = open_service(options)
    server = make_server(service, options)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    yield Running(service, f"http://127.0.0.1:{place.getsockname()[1]}")
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()
