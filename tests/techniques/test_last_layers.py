"""Training only the last layers: what learns, what does not, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import TechniqueError
from tunesmith.models.backbone import Backbone
from tunesmith.techniques import _layers
from tunesmith.testing import KINDS
from tunesmith.testing.techniques import Bench, check_technique

TECHNIQUES = ("full", "lora", "dora", "adapter")


def learning(bench: Bench) -> set[str]:
    return {name for name, parameter in bench.loaded.model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_battery_passes_on_the_last_layer(kind: str, technique: str, models: Path) -> None:
    """Counts, frozen weights to the bit, what moves, save and reload."""
    check_technique(technique, kind, models, {"layers": 1})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_only_the_last_layer_and_what_follows_learns(technique: str, kind: str, models: Path) -> None:
    bench = Bench(kind, models, technique, {"layers": 1})
    bench.attach()
    backbone = bench.loaded.backbone
    layers = backbone.named_layers()
    found, last = learning(bench), layers[-1][0]
    inside = {name for name in found if _layers.within(name, layers)}
    assert inside and all(name.startswith(f"{last}.") for name in inside)
    follows = {name for name in found - inside if not backbone.in_head(name)}
    assert not [
        name for name in follows if technique != "full" or any(w in name for w in ("embed", "shared", "wte", "wpe"))
    ]
    assert {name for name, _ in backbone.head_parameters()} <= found
    assert _layers.boundary(backbone) == len(layers) - 1


@pytest.mark.parametrize(
    ("kind", "follows"),
    [
        ("bert", set()), ("gpt2", {"transformer.ln_f.weight", "transformer.ln_f.bias"}), ("llama", {"model.norm.weight"}),
        ("t5", {"transformer.decoder.final_layer_norm.weight"}), ("bart", set()),
    ],
)  # fmt: skip
def test_the_norm_behind_the_layers_learns_in_full(kind: str, follows: set[str], models: Path) -> None:
    bench = Bench(kind, models, "full", {"layers": 1})
    bench.attach()
    backbone = bench.loaded.backbone
    found = {n for n in learning(bench) if not backbone.in_head(n) and not _layers.within(n, backbone.named_layers())}
    assert {name for name in found if "pooler" not in name} == follows


def test_an_output_layer_of_its_own_learns_and_a_shared_one_does_not(models: Path) -> None:
    for tied in (True, False):
        bench = Bench("gpt2", models, "full", {"layers": 1}, task="language-modeling")
        if not tied:
            from tunesmith.techniques.feature_based import untie

            untie(bench.loaded.model)
        bench.attach()
        assert ("lm_head.weight" in learning(bench)) is not tied
        assert "transformer.wte.weight" not in learning(bench)


def test_all_layers_by_number_still_leave_the_embeddings(models: Path) -> None:
    bench = Bench("bert", models, "full", {"layers": 2})
    bench.attach()
    frozen = {name for name, p in bench.loaded.model.named_parameters() if not p.requires_grad}
    assert frozen and all(name.startswith("bert.embeddings.") for name in frozen)
    assert _layers.boundary(bench.loaded.backbone) == 0


def test_rates_by_layer_leave_out_what_is_frozen(models: Path) -> None:
    bench = Bench("bert", models, "full", {"layers": 1, "layer_decay": 0.5})
    bench.attach()
    groups = bench.technique.parameter_groups(bench.loaded.backbone, 1.0)
    assert {name for group in groups for name in group["names"]} == learning(bench)
    assert [group["lr"] for group in groups] == [0.5, 1.0]


@pytest.mark.parametrize("options", [{"placement": "parallel"}, {"placement": "pfeiffer"}])
def test_adapters_of_every_placement(options: dict[str, Any], models: Path) -> None:
    bench = Bench("bert", models, "adapter", {"layers": 1, **options})
    bench.attach()
    places = {name.split(".tunesmith_adapter")[0] for name in learning(bench) if "tunesmith_adapter" in name}
    assert places == {"bert.encoder.layer.1.output.dense"}


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_more_layers_than_there_are(technique: str, models: Path) -> None:
    bench = Bench("bert", models, technique, {"layers": 3})
    with pytest.raises(
        TechniqueError, match=rf"{technique}.layers=3: \w+ has 2 layers; give 1 to 2, or leave {technique}.layers out"
    ):
        bench.attach()


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_model_without_a_list_of_layers(technique: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench("bert", models, technique, {"layers": 1})
    monkeypatch.setattr(Backbone, "named_layers", lambda self: [])
    with pytest.raises(TechniqueError, match=rf"no list of layers that is known; leave {technique}.layers out"):
        bench.attach()


def test_targets_that_the_last_layers_do_not_have(models: Path) -> None:
    name = "bert.encoder.layer.0.output.dense"
    bench = Bench("bert", models, "lora", {"layers": 1, "targets": [name]})
    with pytest.raises(
        TechniqueError, match="matches no linear module of BertForSequenceClassification in the last 1 layer;"
    ):
        bench.attach()
