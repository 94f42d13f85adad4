"""Recurrent models: torch's own layers as reference, padding, documents in a row, generation, every head, techniques."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tunesmith.models.recurrent import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    RecurrentConfig,
    RecurrentForCausalLM,
    RecurrentForSequenceClassification,
    RecurrentModel,
)
from tunesmith.testing import RECURRENT, check_technique
from tunesmith.testing.techniques import Bench

REFERENCE: dict[str, Any] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
CELLS = tuple(REFERENCE)
EXACT = 1e-6


def config(cell: str = "lstm", **more: Any) -> RecurrentConfig:
    return RecurrentConfig(
        **{"cell": cell, "vocab_size": 23, "hidden_size": 12, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 22, **more}
    )  # fmt: skip


def causal(cell: str = "lstm", **more: Any) -> Any:
    """A language model with weights large enough that its choices differ."""
    torch.manual_seed(3)
    model = RecurrentForCausalLM(config(cell, **more)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def loosen(model: nn.Module) -> None:
    """Attach something that changes nothing, so that the fused kernels may not be used."""
    for name, module in model.named_modules():
        if name.endswith("_proj"):
            module.register_forward_hook(lambda *_: None)


def ids(rows: int = 3, width: int = 9) -> torch.Tensor:
    return torch.randint(1, 22, (rows, width), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_equals_torch(cell: str, both_ways: bool) -> None:
    """The same outputs as torch's layer with the same weights, through the fused kernels and through our steps."""
    torch.manual_seed(0)
    model = RecurrentModel(config(cell, bidirectional=both_ways)).eval()
    reference = REFERENCE[cell](12, 6 if both_ways else 12, 2, batch_first=True, bidirectional=both_ways)
    names = (("weight_ih", "in_proj", "weight"), ("weight_hh", "state_proj", "weight"), ("bias_ih", "in_proj", "bias"),
             ("bias_hh", "state_proj", "bias"))  # fmt: skip
    for number, layer in enumerate(model.layers):
        for direction, one in enumerate(layer.cells):  # type: ignore[arg-type]
            for theirs, module, part in names:
                ending = "_reverse" if direction else ""
                getattr(reference, f"{theirs}_l{number}{ending}").data.copy_(getattr(getattr(one, module), part).data)
    expected = reference(model.embed_tokens(ids()))[0]
    assert torch.allclose(model(ids()).last_hidden_state, expected, atol=EXACT)
    loosen(model)
    assert torch.allclose(model(ids()).last_hidden_state, expected, atol=EXACT)


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_kernels_and_steps_have_one_gradient(cell: str, both_ways: bool) -> None:
    mask = torch.tensor([[1] * 9, [1] * 5 + [0] * 4, [1] * 7 + [0] * 2])
    found = []
    for loose in (False, True):
        torch.manual_seed(0)
        model = RecurrentModel(config(cell, bidirectional=both_ways)).train()
        if loose:
            loosen(model)
        output = model(ids(), attention_mask=mask).last_hidden_state
        (output**2).sum().backward()
        found.append((output.detach(), {n: p.grad for n, p in model.named_parameters()}))
    (first, gradients), (second, others) = found
    assert torch.allclose(first, second, atol=EXACT)
    assert float(first[1, 5:].abs().max()) == 0.0  # padding
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, others[name], atol=1e-5), name
        assert gradient.abs().max() > 0, name


def test_fused_kernels_are_used_while_nothing_is_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.models.recurrence import Cell

    calls = []
    real = Cell._loop
    monkeypatch.setattr(Cell, "_loop", lambda self, *a: calls.append(1) or real(self, *a))
    model = RecurrentModel(config()).eval()
    model(ids(), attention_mask=torch.tensor([[1] * 9, [1] * 5 + [0] * 4, [1] * 7 + [0] * 2]))
    assert calls == []
    model(ids(), attention_mask=torch.tensor([[1] * 9, [0] * 4 + [1] * 5, [1] * 9]))  # left padding takes the steps
    assert len(calls) == 2


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_padding_changes_nothing(cell: str, both_ways: bool, side: str) -> None:
    torch.manual_seed(0)
    model = RecurrentForSequenceClassification(config(cell, bidirectional=both_ways, num_labels=3)).eval()
    short = ids(1, 5)
    filler, ones = torch.full((1, 4), 7), torch.ones(1, 5, dtype=torch.long)
    parts, marks = (filler, short), (torch.zeros_like(filler), ones)
    padded, mask = (torch.cat(p if side == "left" else p[::-1], 1) for p in (parts, marks))
    together = torch.cat([padded, ids(1, 9)])
    mask = torch.cat([mask, torch.ones(1, 9, dtype=torch.long)])
    output = model(together, attention_mask=mask, output_hidden_states=True)
    alone = model(short, output_hidden_states=True)
    assert torch.allclose(output.logits[:1], alone.logits, atol=EXACT)
    states = output.hidden_states[-1][:1][:, mask[0].bool()]
    assert torch.allclose(states, alone.hidden_states[-1], atol=EXACT)
    wrong = model(together)  # without the mask the filler is text
    assert not torch.allclose(wrong.logits[:1], alone.logits, atol=1e-3)


@pytest.mark.parametrize("cell", CELLS)
def test_documents_in_one_row_do_not_see_each_other(cell: str) -> None:
    """Positions that start again start the state again."""
    model = causal(cell)
    a, b = ids(1, 5), ids(1, 7) % 5
    packed = torch.cat([a, b], 1)
    positions = torch.cat([torch.arange(5), torch.arange(7)])[None]
    logits = model(packed, position_ids=positions).logits
    assert torch.allclose(logits[:, :5], model(a).logits, atol=1e-5)
    assert torch.allclose(logits[:, 5:], model(b).logits, atol=1e-5)
    assert not torch.allclose(model(packed).logits[:, 5:], model(b).logits, atol=1e-2)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_generation_with_its_state_equals_without(cell: str, beams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = causal(cell)
    model.generation_config.eos_token_id = None
    prompts = ids(2, 6)
    prompts[0, :2] = 0
    mask = (prompts != 0).long()
    widths: list[int] = []
    real = RecurrentModel.forward

    def counting(self: Any, input_ids: Any = None, **kwargs: Any) -> Any:
        widths.append(input_ids.shape[1])
        return real(self, input_ids, **kwargs)

    monkeypatch.setattr(RecurrentModel, "forward", counting)
    settings: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "num_beams": beams}
    with_state = model.generate(prompts, attention_mask=mask, **settings)
    assert widths == [6] + [1] * 7  # one step a token
    without = model.generate(prompts, attention_mask=mask, use_cache=False, **settings)
    alone = model.generate(prompts[:1, 2:], **settings)
    assert torch.equal(with_state, without)
    assert torch.equal(with_state[:1, 2:], alone)
    first = model(prompts[1:]).logits[0, -1].argmax()  # row 1 has no padding: its first token, by a plain forward pass
    assert beams > 1 or with_state[1, 6] == first


def test_a_state_cannot_go_back() -> None:
    model = causal()
    state = model(ids(), use_cache=True).past_key_values
    assert state.get_seq_length() == 9
    with pytest.raises(NotImplementedError, match="cannot go back"):
        state.crop(3)


@pytest.mark.parametrize(
    ("auto", "more"),
    [
        (AutoModel, {}), (AutoModelForCausalLM, {}), (AutoModelForCausalLM, {"tie_word_embeddings": True, "embedding_size": 8}),
        (AutoModelForSequenceClassification, {"bidirectional": True, "num_labels": 3}),
        (AutoModelForTokenClassification, {"bidirectional": True, "num_labels": 3, "cell": "gru"}),
        (AutoModelForQuestionAnswering, {"cell": "rnn", "embedding_size": 8}),
    ],
)  # fmt: skip
def test_saved_and_opened_again(auto: Any, more: dict[str, Any], tmp_path: Path) -> None:
    model = auto.from_config(config(**more)).eval()
    model.save_pretrained(tmp_path)
    again, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    first, second = (m.eval()(ids()) for m in (model, again))
    assert torch.equal(first[0], second[0])


def test_losses_are_those_of_transformers() -> None:
    labels = ids() % 3
    outputs = {
        auto: auto.from_config(config(num_labels=3)).eval()
        for auto in (AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModelForTokenClassification)
    }
    model = outputs[AutoModelForCausalLM](ids(), labels=ids())
    expected = nn.functional.cross_entropy(model.logits[:, :-1].flatten(0, 1), ids()[:, 1:].flatten())
    assert torch.allclose(model.loss, expected)
    model = outputs[AutoModelForSequenceClassification](ids(), labels=labels[:, 0])
    assert torch.allclose(model.loss, nn.functional.cross_entropy(model.logits, labels[:, 0]))
    model = outputs[AutoModelForTokenClassification](ids(), labels=labels)
    assert torch.allclose(model.loss, nn.functional.cross_entropy(model.logits.flatten(0, 1), labels.flatten()))
    answers = AutoModelForQuestionAnswering.from_config(config()).eval()
    model = answers(ids(), start_positions=labels[:, 0], end_positions=labels[:, 1])
    start, end = (
        nn.functional.cross_entropy(logits, labels[:, i])
        for i, logits in enumerate((model.start_logits, model.end_logits))
    )
    assert torch.allclose(model.loss, (start + end) / 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [("cell", "gru"), ("num_hidden_layers", 1), ("embedding_size", 8), ("hidden_size", 8), ("tie_word_embeddings", True)],
)  # fmt: skip
def test_each_entry_of_the_configuration_counts(name: str, value: Any) -> None:
    shapes = []
    for more in ({}, {name: value}):
        torch.manual_seed(0)
        model = RecurrentForCausalLM(config(**more))
        shapes.append((model(ids()).logits.sum().item(), sum(p.numel() for p in model.parameters())))
    assert shapes[0] != shapes[1]


def test_dropout_stands_between_layers_in_training_alone() -> None:
    model = RecurrentForCausalLM(config(dropout=0.5))
    assert torch.equal(model.eval()(ids()).logits, model(ids()).logits)
    model.train()
    assert not torch.equal(model(ids()).logits, model(ids()).logits)


def test_wrong_configurations_are_refused() -> None:
    with pytest.raises(Exception, match="cell is one of rnn, lstm, gru"):
        config("lsmt")
    with pytest.raises(Exception, match="even"):
        config(hidden_size=7, bidirectional=True)
    with pytest.raises(ValueError, match="sees the token"):
        RecurrentForCausalLM(config(bidirectional=True))


def test_first_weights() -> None:
    """Torch's range; the forget gate open by exactly 1."""
    torch.manual_seed(0)
    cell: Any = RecurrentModel(config(hidden_size=64)).layers[0].cells[0]  # type: ignore[index, union-attr]
    assert torch.equal((cell.in_proj.bias + cell.state_proj.bias)[64:128], torch.ones(64))
    for module in (cell.in_proj, cell.state_proj):
        assert float(module.weight.detach().abs().max()) <= 1 / 8
        assert float(module.weight.detach().std()) == pytest.approx(1 / 8 / 3**0.5, rel=0.05)
    embedding: Any = RecurrentModel(config(hidden_size=64)).embed_tokens.weight
    assert 0.4 < float(embedding.detach().abs().max()) <= 0.5


def test_gradient_checkpointing_changes_nothing() -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = RecurrentForCausalLM(config())
        if checkpointing:
            model.activation_checkpointing_enable()
        model.train()
        model(ids(), labels=ids()).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*gradients, strict=True))


FAMILY = [("full", {}), ("lora", {"rank": 4}), ("adapter", {"placement": "parallel"}), ("prefix-tuning", {})]


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize(("name", "options"), FAMILY, ids=[name for name, _ in FAMILY])
def test_techniques_on_the_rest_of_the_family(name: str, options: dict[str, Any], kind: str, models: Path) -> None:
    check_technique(name, kind, models, options)


def test_the_prefix_of_a_recurrent_layer_is_its_first_state(models: Path) -> None:
    """2 states x 32 a layer, whatever the length; setting it to zero gives the untouched model."""
    bench = Bench("lstm", models, "prefix-tuning", {"length": 7})
    untouched = bench.logits()
    bench.attach()
    prefix: Any = bench.loaded.backbone.base.tunesmith_prefix
    assert prefix.weight.shape == (1, 2 * 2 * 32)
    assert float((bench.logits() - untouched).abs().max()) > 1e-4
    with torch.no_grad():
        prefix.weight.zero_()
    assert torch.equal(bench.logits(), untouched)


def test_an_adapter_follows_the_layer(models: Path) -> None:
    """h + A(h) on what each layer gives, with the fused kernels still at work."""
    bench = Bench("gru", models, "adapter", {"placement": "pfeiffer"})
    bench.attach()
    layer: Any = bench.loaded.backbone.layers[0]
    nn.init.normal_(layer.tunesmith_adapter.up.weight)
    x = torch.randn(2, 5, 32)
    plain = layer.forward(x)
    assert torch.allclose(layer(x), plain + layer.tunesmith_adapter(plain), atol=EXACT)


@pytest.mark.parametrize("technique", ["lora", "prefix-tuning", "prompt-tuning", "adapter"])
def test_generation_under_a_technique(technique: str, models: Path) -> None:
    """With the state equal to without, and a row padded on the left equal to the row alone."""
    from tunesmith.models.backbone import Backbone
    from tunesmith.techniques._base import create

    torch.manual_seed(0)
    model = causal()
    model.generation_config.eos_token_id = None
    backbone = Backbone(model, reads="tokens")
    create(technique, {"length": 3} if "tuning" in technique else {}).attach(backbone)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter is not model.lm_head.weight:
                parameter.normal_()
    model.eval()  # what was attached has dropout
    prompts = ids(2, 6)
    prompts[0, :2] = 0
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
    mask = (prompts != 0).long()
    with_state = model.generate(prompts, attention_mask=mask, **settings)
    assert torch.equal(with_state, model.generate(prompts, attention_mask=mask, use_cache=False, **settings))
    assert torch.equal(with_state[:1, 2:], model.generate(prompts[:1, 2:], **settings))
