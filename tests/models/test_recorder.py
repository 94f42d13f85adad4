"""States and attention maps that a forward pass leaves behind, against transformers' own outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.errors import ModelError
from tunesmith.models.recorder import Recorder
from tunesmith.testing.techniques import Bench

KINDS = ("bert", "distilbert", "roberta", "modernbert", "gpt2", "llama", "qwen3", "gemma3", "t5", "bart")


def outputs_of(found: Any, name: str) -> list[Any]:
    """By stack: an encoder's, then a decoder's."""
    if f"encoder_{name}" in found:
        return [found[f"encoder_{name}"], found[f"decoder_{name}"]]
    return [found[name]]


@pytest.mark.parametrize("kind", KINDS)
def test_maps_and_states_are_transformers_own(kind: str, models: Path) -> None:
    """Maps are those of eager attention, states those of output_hidden_states; logits are untouched, and afterwards nothing is left."""
    bench = Bench(kind, models, "full")
    model: Any = bench.loaded.model.eval()
    inputs = bench.task.model_inputs(bench.batch)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        before = model(**inputs).logits
        recorder = Recorder(bench.loaded.backbone, {"hidden_states", "attentions"}).install()
        logits = model(**inputs).logits
        implementation = model.config._attn_implementation
        recorder.remove()
        assert model.config._attn_implementation == "sdpa" != implementation
        assert torch.equal(model(**inputs).logits, before) and torch.equal(logits, before)
        model.set_attn_implementation("eager")
        wanted = model(**inputs, output_hidden_states=True, output_attentions=True)
    for stack, (states, maps) in enumerate(
        zip(outputs_of(wanted, "hidden_states"), outputs_of(wanted, "attentions"), strict=True)
    ):
        assert len(recorder.maps[stack]) == len(maps) == 2 and len(recorder.states[stack]) == 3
        for ours, theirs in zip(recorder.maps[stack], maps, strict=True):
            rows = real[:, None, :, None].expand_as(theirs)
            torch.testing.assert_close(ours[rows], theirs[rows], rtol=0, atol=2e-5)
        for ours, theirs in zip(
            recorder.states[stack][:2], states[:2], strict=True
        ):  # the last may stand behind a norm
            torch.testing.assert_close(ours[real], theirs[real], rtol=0, atol=2e-5)


def test_nothing_to_attend_with_is_refused(models: Path) -> None:
    with pytest.raises(ModelError, match="has no attention"):
        Recorder(Bench("lstm", models, "full").loaded.backbone, {"attentions"}).install()


def test_states_of_recomputed_layers_have_gradients(models: Path) -> None:
    """With gradient checkpointing a loss on states reaches the weights as it does without."""
    found = []
    for checkpointing in (False, True):
        bench = Bench("bert", models, "full")
        model: Any = bench.loaded.model.eval()
        for module in model.modules():  # no dropout, but training mode, which checkpointing asks for
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        recorder = Recorder(bench.loaded.backbone, {"hidden_states", "attentions"}).install()
        model(**bench.task.model_inputs(bench.batch))
        (recorder.states[0][1].square().sum() + recorder.maps[0][1].square().sum()).backward()
        recorder.remove()
        found.append(bench.loaded.backbone.embedding.weight.grad.clone())
    assert bool(found[0].abs().any())
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
