"""Every option of every technique does something: flipping it changes what is trained or what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith import registry
from tunesmith.errors import TechniqueError
from tunesmith.evaluation.cost import parameters
from tunesmith.techniques.prompt_tuning import _insert, _remove
from tunesmith.testing import KINDS
from tunesmith.testing.techniques import Bench

# technique -> option -> (a base setting, another value)
FLIPS: dict[str, dict[str, tuple[dict[str, Any], Any]]] = {
    "full": {"layer_decay": ({}, 0.5), "layers": ({}, 1)},
    "bitfit": {"grow_biases": ({}, True)},
    "adapter": {
        "placement": ({}, "parallel"), "reduction": ({}, 4), "activation": ({}, "relu"), "scale": ({}, 3.0), "dropout": ({}, 0.5),
        "layers": ({}, 1),
    },
    "lora": {
        "rank": ({}, 4), "alpha": ({}, 8), "dropout": ({}, 0.5), "targets": ({}, ["q"]), "rank_stabilized": ({}, True), "init": ({}, "gaussian"),
        "layers": ({}, 1),
    },
    "dora": {
        "rank": ({}, 4), "alpha": ({}, 8), "dropout": ({}, 0.5), "targets": ({}, ["q"]), "rank_stabilized": ({}, True), "init": ({}, "gaussian"),
        "layers": ({}, 1),
    },
    "qlora": {
        "rank": ({}, 4), "alpha": ({}, 8), "dropout": ({}, 0.5), "targets": ({}, ["q"]), "rank_stabilized": ({}, True), "init": ({}, "gaussian"),
        "layers": ({}, 1),
    },
    "ia3": {"targets": ({}, ["v"])},
    "prompt-tuning": {"length": ({}, 7), "init": ({}, "random"), "text": ({"init": "text"}, "a good film")},
    "prefix-tuning": {"length": ({}, 7), "reparametrization": ({}, True), "hidden": ({"reparametrization": True}, 8)},
    "feature-based": {"pooling": ({}, "last"), "layers": ({}, "last")},
    "peft": {"targets": ({}, ["q"])},
}  # fmt: skip
ELSEWHERE = {("feature-based", "cache"), ("full", "layer_decay")}  # tests/training/test_loop.py


@pytest.mark.parametrize("name", registry.names("technique"))
def test_the_table_names_every_option(name: str) -> None:
    fields = set(registry.load("technique", name).Options.model_fields)
    assert fields - {o for t, o in ELSEWHERE if t == name} <= set(FLIPS[name]), name


@pytest.mark.parametrize(("name", "option"), [(n, o) for n, t in FLIPS.items() for o in t if (n, o) not in ELSEWHERE])
def test_flipping_an_option_shows(name: str, option: str, models: Path) -> None:
    base, value = FLIPS[name][option]
    variant = {"peft": "peft:LOHA"}.get(name, name)
    kind = "llama" if (name, option) == ("bitfit", "grow_biases") else "bert"
    seen = []
    for options in (base, {**base, option: value}):
        bench = Bench(kind, models, variant, options)
        try:
            bench.attach()
        except TechniqueError:
            seen.append((0, torch.zeros(1)))  # refused before the flip, accepted after it
            continue
        bench.loaded.model.train()
        losses = []
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW([p for p in bench.loaded.model.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(4):
            loss = bench.task.loss(bench.loaded.model(**bench.task.model_inputs(bench.batch)), bench.batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        seen.append((parameters(bench.loaded.model)[0], torch.tensor(losses)))
    (count, first), (other_count, second) = seen
    assert count != other_count or not torch.equal(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_grown_biases_learn_and_start_as_identity(kind: str, models: Path) -> None:
    bench = Bench(kind, models, "bitfit", {"grow_biases": True})
    before = bench.logits()
    bench.attach()
    assert float((bench.logits() - before).abs().max()) <= 1e-6
    losses = bench.train()
    assert losses[-1] < 0.6 * losses[0]


def test_prompt_positions_are_woven_in_and_taken_out_again() -> None:
    torch.manual_seed(0)
    table, new = torch.randn(3, 6, 4), torch.randn(3, 2, 4)
    at = torch.tensor([0, 2, 6])
    woven = _insert(table, new, at)
    for row in range(3):
        start = int(at[row])
        assert torch.equal(woven[row], torch.cat([table[row, :start], new[row], table[row, start:]]))
    assert torch.equal(_remove(woven, at, 2), table)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma3"])
def test_prompt_ignores_left_padding(kind: str, models: Path) -> None:
    """A decoder row padded on the left gives the hidden states of the row alone."""
    bench = Bench(kind, models, "prompt-tuning", {"length": 4})
    bench.attach()
    base: Any = bench.loaded.backbone.base
    ids = torch.tensor([[5, 9, 12, 7]])
    padded, mask = torch.tensor([[0, 0, 0, 5, 9, 12, 7]]), torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    with torch.no_grad():
        alone = base.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        beside = base(input_ids=padded, attention_mask=mask).last_hidden_state[:, 3:]
    assert float((alone - beside).abs().max()) < 1e-5


def test_prompt_starts_from_the_words_given(models: Path) -> None:
    bench = Bench("bert", models, "prompt-tuning", {"length": 5, "init": "text", "text": "good film"})
    bench.attach()
    weight: Any = bench.loaded.backbone.stack.tunesmith_prompt.weight
    ids = bench.loaded.tokenizer("good film", add_special_tokens=False)["input_ids"]
    embedding = bench.loaded.backbone.embedding.weight
    for place in range(5):
        assert torch.equal(weight[place], embedding[ids[place % 2]])


def test_prefix_is_attention_over_more_keys(models: Path) -> None:
    """Against a plain softmax over [prefix; keys] written out."""
    from tunesmith.techniques.prefix_tuning import prefix_attention

    torch.manual_seed(0)
    module = torch.nn.Module()
    module.is_causal = False
    pair = (torch.randn(2, 3, 8), torch.randn(2, 3, 8))
    object.__setattr__(module, "tunesmith_pair", pair)
    q, k, v = (torch.randn(2, 2, 5, 8) for _ in range(3))
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    mask[1, :, :, 3:] = False
    out, _ = prefix_attention(module, q, k, v, mask, scaling=8**-0.5)
    keys = torch.cat([pair[0][None].expand(2, -1, -1, -1), k], 2)
    values = torch.cat([pair[1][None].expand(2, -1, -1, -1), v], 2)
    scores = q @ keys.transpose(-1, -2) * 8**-0.5
    scores = scores.masked_fill(~torch.nn.functional.pad(mask, (3, 0), value=True), -torch.inf)
    expected = (scores.softmax(-1) @ values).transpose(1, 2)
    assert torch.allclose(out, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["t5", "bart", "bert2bert"])
def test_an_encoder_that_runs_alone_has_its_prefix(kind: str, models: Path) -> None:
    """Generation calls the encoder before the whole model: fails if only the model's own forward pass spreads the prefix."""
    bench = Bench(kind, models, "prefix-tuning", {"length": 3}, task="summarization")
    bench.attach()
    model: Any = bench.loaded.model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "tunesmith" in name:
                parameter.normal_()
        ids = bench.batch["input_ids"][:2]
        alone = model.get_encoder()(input_ids=ids).last_hidden_state
        whole = model(input_ids=ids, decoder_input_ids=ids[:, :3]).encoder_last_hidden_state
    assert torch.equal(alone, whole)


def test_feature_mix_equals_its_formula(models: Path) -> None:
    bench = Bench("bert", models, "feature-based")
    with torch.no_grad():
        output = bench.loaded.backbone.base(**bench.task.model_inputs(bench.batch), output_hidden_states=True)
    bench.attach()
    reader: Any = bench.technique.reader
    torch.nn.init.normal_(reader.weight)
    mask = bench.batch["attention_mask"][..., None].float()
    means = torch.stack([(h * mask).sum(1) / mask.sum(1) for h in output.hidden_states])
    expected = reader.gamma * (reader.weight.softmax(0)[:, None, None] * means).sum(0)
    with torch.no_grad():
        pooled = bench.loaded.backbone.base(**bench.task.model_inputs(bench.batch)).last_hidden_state[:, 0]
    assert torch.allclose(pooled, expected, atol=1e-5)


@pytest.mark.parametrize(("name", "reason"), [("feature-based", "reads tokens")])
def test_pooling_for_a_token_head_is_refused(name: str, reason: str, models: Path) -> None:
    bench = Bench("bert", models, name, {"pooling": "mean"})
    bench.loaded.backbone.reads = "tokens"
    with pytest.raises(TechniqueError, match=reason):
        bench.attach()
