"""LoRA, DoRA and IA3 against plain peft: the same model from our artifact, the same change from the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tunesmith
from tunesmith.models.backbone import dimensions
from tunesmith.testing import KINDS, tiny_model
from tunesmith.testing.rows import toy_rows
from tunesmith.testing.techniques import Bench

PEFT_BOUND = 1e-4  # fp32 logits, as promised to users


def trained(kind: str, technique: str, models: Path, out: Path, **settings: Any) -> tunesmith.RunResult:
    return tunesmith.train(
        str(tiny_model(kind, models / kind)), train=toy_rows(24), eval=toy_rows(8), technique=technique, max_steps=4, batch_size=8,
        learning_rate=1e-2, output=out, **settings,
    )  # fmt: skip


def logits_of(model: Any, tokenizer: Any) -> torch.Tensor:
    texts = [row["text"] for row in toy_rows(8)]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    with torch.no_grad():
        return model.eval()(**inputs).logits


OPENED = [
    (t, k, {}) for t in ("lora", "dora", "ia3") for k in ("bert", "distilbert", "modernbert", "gpt2", "llama", "bart")
]
OPENED += [
    (f"peft:{m}", k, {})
    for m in ("VERA", "VBLORA", "TINYLORA", "UNILORA", "PVERA", "FROD", "OFT")
    for k in ("bert", "llama")
]
OPENED += [("lora", "bert", {"lora": {"init": init}}) for init in ("pissa", "olora", "orthogonal")]


@pytest.mark.parametrize(
    ("technique", "kind", "options"), OPENED, ids=lambda v: "-".join(map(str, v)) if isinstance(v, tuple) else str(v)
)
def test_artifact_opens_with_plain_peft(
    technique: str, kind: str, options: dict[str, Any], models: Path, tmp_path: Path
) -> None:
    """Fails if the head is not saved, a name has a prefix too many, or the base path is not a real one."""
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    run = trained(kind, technique, models, tmp_path / "run", **options)
    ours = run.load()
    config = PeftConfig.from_pretrained(str(run.artifact))
    tokenizer = AutoTokenizer.from_pretrained(str(run.artifact))
    base = AutoModelForSequenceClassification.from_pretrained(
        config.base_model_name_or_path, num_labels=2, pad_token_id=tokenizer.pad_token_id
    )
    plain = PeftModel.from_pretrained(base, str(run.artifact))
    expected = logits_of(ours.model, tokenizer)
    assert float((logits_of(plain, tokenizer) - expected).abs().max()) < PEFT_BOUND
    untouched = AutoModelForSequenceClassification.from_pretrained(
        config.base_model_name_or_path, num_labels=2, pad_token_id=0
    )
    assert float((logits_of(untouched, tokenizer) - expected).abs().max()) > 1e-2  # the comparison can fail


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3", "gemma3"])
@pytest.mark.parametrize(
    ("technique", "options"),
    [
        ("prompt-tuning", {}),
        ("prefix-tuning", {}),
        ("prefix-tuning", {"reparametrization": True}),
        ("lora", {}),
        ("ia3", {}),
    ],
    ids=lambda v: v if isinstance(v, str) else "-".join(v),
)
def test_a_language_model_opens_with_plain_peft(
    technique: str, options: dict[str, Any], kind: str, models: Path, tmp_path: Path
) -> None:
    """Logits of the next token and the written text are equal; the untouched model's are not."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = [{"text": row["text"]} for row in toy_rows(24)]
    place = tmp_path / "base"  # with an output layer of its own, as every real checkpoint has
    AutoModelForCausalLM.from_pretrained(str(tiny_model(kind, models / kind))).save_pretrained(place)
    AutoTokenizer.from_pretrained(str(models / kind)).save_pretrained(place)
    run = tunesmith.train(
        str(place), train=rows, eval=rows[:8], task="language-modeling", technique=technique, max_steps=4,
        batch_size=8, learning_rate=1e-2, output=tmp_path / "run", **{technique: options},
    )  # fmt: skip
    ours = run.load().model
    tokenizer = AutoTokenizer.from_pretrained(str(run.artifact))
    base = AutoModelForCausalLM.from_pretrained(str(place))
    ids = tokenizer(
        ["the film was very good and", "a bad plot"], padding=True, return_tensors="pt", add_special_tokens=False
    )
    inputs = {"input_ids": ids["input_ids"], "attention_mask": ids["attention_mask"]}
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        untouched = base.eval()(**inputs).logits
        plain = PeftModel.from_pretrained(base, str(run.artifact)).eval()
        expected = ours.eval()(**inputs).logits
        found = plain(**inputs).logits
    found = found[:, -expected.shape[1] :]  # peft's prompt keeps its own positions in front
    assert float((found - expected)[real].abs().max()) < PEFT_BOUND
    assert float((untouched - expected)[real].abs().max()) > 1e-3  # the comparison can fail
    one = {"input_ids": inputs["input_ids"][:1], "attention_mask": inputs["attention_mask"][:1]}
    settings: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    texts = [m.generate(**one, **settings)[0, -8:].tolist() for m in (ours, plain)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("technique", "kind"), [*(("lora", k) for k in KINDS), ("peft:VERA", "bert"), ("peft:VBLORA", "t5")]
)
def test_merge_keeps_the_logits(technique: str, kind: str, models: Path) -> None:
    bench = Bench(kind, models, technique, {"rank": 4} if technique == "lora" else {})
    bench.attach()
    bench.train(3)
    before = bench.logits()
    classes = [type(m).__name__ for m in bench.open().model.modules()]
    bench.technique.merge(bench.loaded.backbone)
    assert [type(m).__name__ for m in bench.loaded.model.modules()] == classes  # plain modules again
    assert float((bench.logits() - before).abs().max()) < 1e-5


def test_lora_equals_its_formula(models: Path) -> None:
    """y = W x + b + (alpha / r) B A x, and alpha / sqrt(r) when rank-stabilised."""
    for stabilised, scale in ((False, 8 / 4), (True, 8 / 2)):
        bench = Bench("bert", models, "lora", {"rank": 4, "alpha": 8, "rank_stabilized": stabilised, "targets": ["q"]})
        bench.attach()
        layer: Any = bench.loaded.model.bert.encoder.layer[0].attention.self.query
        torch.nn.init.normal_(layer.lora_B["default"].weight)
        x = torch.randn(5, 32)
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        expected = x @ layer.base_layer.weight.T + layer.base_layer.bias + scale * (x @ a.T @ b.T)
        assert torch.allclose(layer.eval()(x), expected, atol=1e-5)


def test_dora_equals_its_formula(models: Path) -> None:
    bench = Bench("bert", models, "dora", {"rank": 4, "alpha": 8, "targets": ["q"]})
    bench.attach()
    layer: Any = bench.loaded.model.bert.encoder.layer[0].attention.self.query
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    weight = layer.base_layer.weight + 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    magnitude = layer.lora_magnitude_vector["default"].weight
    directed = magnitude[:, None] * weight / weight.norm(dim=1, keepdim=True)
    x = torch.randn(5, 32)
    assert torch.allclose(layer.eval()(x), x @ directed.T + layer.base_layer.bias, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["q"], {"query"}), (["k", "v"], {"key", "value"}), (["attention"], {"query", "key", "value", "attention.output.dense"}),
        (["feed-forward"], {"intermediate.dense", "output.dense"}), (["query"], {"query"}), (["intermediate.dense"], {"intermediate.dense"}),
    ],
    ids=lambda v: "-".join(sorted(v)),
)  # fmt: skip
def test_targets_choose_modules(words: list[str], expected: set[str], models: Path) -> None:
    bench = Bench("bert", models, "lora", {"targets": words, "rank": 2})
    bench.attach()
    adapted = {n for n, m in bench.loaded.model.named_modules() if hasattr(m, "lora_A")}
    ends = {next((e for e in sorted(expected, key=len, reverse=True) if n.endswith(e)), n) for n in adapted}
    assert ends == expected
    assert len(adapted) == 2 * len(expected)


@pytest.mark.parametrize(
    "changed",
    [{"rank": 2}, {"alpha": 4}, {"dropout": 0.5}, {"init": "gaussian"}, {"init": "olora"}, {"init": "pissa"}],
    ids=str,
)
def test_each_lora_option_changes_the_result(changed: dict[str, Any], models: Path, tmp_path: Path) -> None:
    plain, other = (trained("bert", "lora", models, tmp_path / n, lora=o) for n, o in (("a", {}), ("b", changed)))
    a, b = logits_of(plain.load().model, plain.load().tokenizer), logits_of(other.load().model, other.load().tokenizer)
    assert float((a - b).abs().max()) > 1e-5


def test_peft_methods_pass_their_options_through(models: Path, tmp_path: Path) -> None:
    run = trained("bert", "peft:LOHA", models, tmp_path / "run", peft={"r": 3, "alpha": 6})
    saved = json.loads((run.artifact / "adapter_config.json").read_text())
    assert (saved["peft_type"], saved["r"], saved["alpha"]) == ("LOHA", 3, 6)
    with pytest.raises(tunesmith.UserError, match="unknown option `rnak`"):
        trained("bert", "peft:LOHA", models, tmp_path / "typo", peft={"rnak": 3})
    with pytest.raises(tunesmith.UserError, match="use the technique `lora`"):
        trained("bert", "peft:LORA", models, tmp_path / "own")
    with pytest.raises(tunesmith.UserError, match="unknown peft method"):
        trained("bert", "peft:LOHO", models, tmp_path / "unknown")


def test_closed_forms(models: Path) -> None:
    """By hand on the tiny BERT: width 32, inner 64, 2 layers, 4 heads of 8."""
    d, f, layers = 32, 64, 2
    matrices = [(d, d)] * 4 + [(d, f), (f, d)]
    cases: dict[str, tuple[dict[str, Any], int]] = {
        "lora": ({"rank": 4}, layers * sum(4 * (n + m) for n, m in matrices)),
        "dora": ({"rank": 4}, layers * sum(4 * (n + m) + m for n, m in matrices)),
        "ia3": ({}, layers * (d + d + f)),
        "adapter": ({"placement": "houlsby", "reduction": 8}, layers * 2 * (2 * d * 4 + 4 + d)),
        "prompt-tuning": ({"length": 5}, 5 * d),
        "prefix-tuning": ({"length": 5}, 2 * 5 * layers * 4 * 8),
        "feature-based": ({}, layers + 2),
    }
    for name, (options, expected) in cases.items():
        bench = Bench("bert", models, name, options)
        bench.attach()
        counted = sum(p.numel() for n, p in bench.loaded.backbone.backbone_parameters() if p.requires_grad)
        assert counted == bench.technique.closed_form_count(bench.loaded.backbone) == expected, name
    assert dimensions(torch.nn.Linear(3, 5)) == (3, 5)
