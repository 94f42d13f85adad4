"""One base and many adapters: the same answers as alone, to the bit; rows of several in one batch; memory; what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import tunesmith
from tunesmith.artifacts.switch import AdapterBank
from tunesmith.testing import tiny_model
from tunesmith.testing.artifacts import reseal
from tunesmith.testing.rows import rows_for

ON_LLAMA = [
    ("lora", "instruction", {}), ("lora", "instruction", {"seed": 5, "lora": {"rank": 4}}), ("lora", "instruction", {"seed": 6, "lora": {"targets": ["q", "v"]}}),
    ("dora", "instruction", {}), ("ia3", "instruction", {}), ("adapter", "instruction", {}), ("prefix-tuning", "instruction", {"prefix-tuning": {"length": 3}}),
    ("prompt-tuning", "instruction", {"prompt-tuning": {"length": 3}}), ("lora", "text-classification", {}), ("feature-based", "text-classification", {}),
    ("lora", "question-answering", {}), ("peft:VERA", "instruction", {"peft": {"r": 8}}),
]  # fmt: skip
ON_BERT = [
    ("lora", "text-classification", {}), ("bitfit", "token-classification", {}), ("adapter", "question-answering", {}), ("bitfit", "text-classification", {"seed": 3}),
]  # fmt: skip
ON_T5 = [("lora", "instruction", {}), ("prefix-tuning", "text-classification", {}), ("lora", "question-answering", {})]


def whole(kind: str, models: Path) -> Path:
    """A tiny model; the decoder with its own output layer, as pretrained ones come."""
    folder = tiny_model(kind, models / kind)
    if kind != "llama":
        return folder
    place = models / "llama-with-output"
    if not place.is_dir():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_pretrained(folder).save_pretrained(place)
        AutoTokenizer.from_pretrained(folder).save_pretrained(place)
    return place


def train(kind: str, technique: str, task: str, options: dict[str, Any], models: Path, place: Path) -> Path:
    shape = {task: {"generate_rows": 0}} if task == "instruction" else {}
    run = tunesmith.train(
        str(whole(kind, models)), task=task, train=rows_for(task, 16), eval=rows_for(task, 4), technique=technique, max_steps=3,
        batch_size=8, learning_rate=3e-2, max_length=40, output=place, device="cpu", dtype="float32", doctor=False, **shape, **options,
    )  # fmt: skip
    return run.folder / "artifact"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, Path]]]:
    models, runs = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return {
            kind: [(f"{kind}-{i}", train(kind, *what, models, runs / f"{kind}-{i}")) for i, what in enumerate(several)]
            for kind, several in (("llama", ON_LLAMA), ("bert", ON_BERT), ("t5", ON_T5))
        } | {"models": [(kind, whole(kind, models)) for kind in ("llama", "bert", "t5")]}


def base(world: dict[str, Any], kind: str) -> str:
    return str(dict(world["models"])[kind])


def logits(artifact: Any) -> torch.Tensor:
    """What the model says of two padded rows of token ids."""
    end = artifact.tokenizer.eos_token_id or 1
    ids = torch.tensor([[5, 9, 12, 7, end], [8, 6, end, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": torch.tensor([[1] * 5, [1] * 3 + [0] * 2])}
    if artifact.model.config.is_encoder_decoder and not type(artifact.model).__name__.endswith(
        ("Classification", "Answering")
    ):
        inputs["decoder_input_ids"] = ids
    with torch.no_grad():
        found = artifact.model(**inputs)
    return found.logits if "logits" in found else torch.stack([found.start_logits, found.end_logits])


@pytest.mark.parametrize("kind", ["llama", "bert", "t5"])
def test_every_adapter_answers_as_alone_and_going_back_changes_nothing(kind: str, world: dict[str, Any]) -> None:
    bank = AdapterBank(base(world, kind), device="cpu")
    alone = {}
    for name, folder in world[kind]:
        bank.add(name, folder)
        alone[name] = logits(tunesmith.load(folder, device="cpu"))
    first = {name: logits(bank.select(name)) for name in bank.names}
    again = {name: logits(bank.select(name)) for name in reversed(bank.names)}
    for name in bank.names:
        assert torch.equal(first[name], again[name])
        assert torch.equal(first[name], alone[name]), f"{name}: {(first[name] - alone[name]).abs().max()}"
    for name, folder in world[kind]:
        rows = [
            {k: v for k, v in row.items() if k not in bank.select(name).task.targets}
            for row in rows_for(bank.select(name).task.name, 3)
        ]
        assert bank.select(name).predict(rows) == tunesmith.load(folder, device="cpu").predict(rows)


def test_memory_is_the_base_and_the_adapters_own_bytes(world: dict[str, Any]) -> None:
    bank = AdapterBank(base(world, "llama"), device="cpu")
    for name, folder in world["llama"]:
        bank.add(name, folder)
        saved = sum(
            t.numel() * 4
            for f in folder.glob("*.safetensors")
            if f.name != "adapter_model.safetensors" or "peft" in f.name
            for t in load_file(f).values()
        )
        saved = saved or sum(t.numel() * 4 for t in load_file(folder / "adapter_model.safetensors").values())
        own = bank.bytes_of(name)
        assert own <= 1.1 * saved + 512, f"{name}: {own} bytes in memory, {saved} on disk"
    held: dict[int, torch.Tensor] = {}
    for name in bank.names:
        for loaded in bank.select(name).opened.heads.loaded.values():
            held |= {t.untyped_storage().data_ptr(): t for t in (*loaded.model.parameters(), *loaded.model.buffers())}
    everything = sum(t.untyped_storage().nbytes() for t in held.values())
    shared = sum(t.numel() * t.element_size() for t in {id(t): t for t in bank.base.tensors()}.values())
    assert everything <= 1.1 * (shared + sum(map(bank.bytes_of, bank.names)))


def test_rows_of_several_adapters_in_one_batch(world: dict[str, Any]) -> None:
    """Each row as its adapter alone says it, in any order, some rows without one; ranks and targets may differ."""
    bank = AdapterBank(base(world, "llama"), device="cpu")
    for name, folder in world["llama"]:
        bank.add(name, folder)
    mixing = [name for name in bank.names if bank.mixes(name)]
    assert mixing == ["llama-0", "llama-1", "llama-2"] and bank.mixes(None)
    ids = torch.randint(3, 60, (7, 9), generator=torch.Generator().manual_seed(0))
    for names in (
        ["llama-0", None, "llama-1", "llama-2", "llama-0", "llama-1", "llama-0"], [None] * 7, ["llama-1"] * 7, ["llama-2", None, None, None, None, None, "llama-0"],
    ):  # fmt: skip
        with torch.no_grad(), bank.rows(names):
            together = bank.model(input_ids=ids).logits
        for i, name in enumerate(names):
            with torch.no_grad():
                alone = bank.select(name).model(input_ids=ids[i : i + 1]).logits[0]
            assert (together[i] - alone).abs().max() < 1e-5, (names, i)
    with torch.no_grad():
        plain, none = bank.model(input_ids=ids).logits, bank.select(None).model(input_ids=ids).logits
    assert torch.equal(plain, none)
    with torch.no_grad(), bank.rows(["llama-0"] * 7):
        assert (bank.model(input_ids=ids).logits - none).abs().max() > 1e-3
    with pytest.raises(tunesmith.UserError, match="cannot be mixed"), bank.rows(["llama-4"] * 7):
        pass


def test_removing(world: dict[str, Any]) -> None:
    bank = AdapterBank(base(world, "llama"), device="cpu")
    for name, folder in world["llama"][:3]:
        bank.add(name, folder)
    before = logits(bank.select("llama-1"))
    bank.remove("llama-0")
    assert bank.names == ["llama-1", "llama-2"] and torch.equal(logits(bank.select("llama-1")), before)
    with torch.no_grad(), bank.rows(["llama-1", None]):
        assert (
            bank.model(input_ids=torch.tensor([[5, 9, 12]] * 2)).logits[0]
            - bank.select("llama-1").model(input_ids=torch.tensor([[5, 9, 12]])).logits[0]
        ).abs().max() < 1e-5
    with pytest.raises(tunesmith.UserError, match="did you mean `llama-1`"):
        bank.select("llama-11")
    bank.add("llama-0", world["llama"][0][1])
    assert bank.mixes("llama-0")


def test_what_does_not_fit_is_refused(world: dict[str, Any], models: Path, tmp_path: Path) -> None:
    bank = AdapterBank(base(world, "llama"), device="cpu")
    folder = world["llama"][0][1]
    for name in ("../x", "a/b", "", ".hidden", "x" * 65, "a b", "a\n"):
        with pytest.raises(tunesmith.UserError, match="cannot be the name"):
            bank.add(name, folder)
    bank.add("one", folder)
    with pytest.raises(tunesmith.UserError, match="leave them out"):
        tunesmith.load(folder, labels=["a", "b"])  # an artifact says its own labels: the option would change nothing
    with pytest.raises(tunesmith.UserError, match="already"):
        bank.add("one", folder)
    with pytest.raises(tunesmith.UserError, match="was made for"):
        bank.add("two", world["bert"][0][1])

    def damaged(name: str, change: Any) -> Path:
        place = tmp_path / name
        shutil.copytree(folder, place)
        change(place)
        return place

    def flip(place: Path) -> None:
        file = place / "adapter_model.safetensors"
        content = bytearray(file.read_bytes())
        content[-3] ^= 1
        file.write_bytes(bytes(content))

    def cut(place: Path) -> None:
        file = place / "adapter_model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])

    def other_tokenizer(place: Path) -> None:
        text = json.loads((place / "tokenizer.json").read_text())
        words = text["model"]["vocab"]
        a, b = list(words)[-2:]
        words[a], words[b] = words[b], words[a]
        (place / "tokenizer.json").write_text(json.dumps(text))
        reseal(place)

    def stored(place: Path) -> None:
        reseal(place, {"quantization": "nf4"})

    for name, change, words in (
        ("flip", flip, "damaged"),
        ("cut", cut, "damaged"),
        ("tokens", other_tokenizer, "tokenizer"),
        ("stored", stored, "nf4"),
    ):
        with pytest.raises(tunesmith.UserError, match=words):
            bank.add(name, damaged(name, change))
    assert bank.names == ["one"]


@pytest.mark.parametrize("init", ["pissa", "olora"])
@pytest.mark.parametrize("plain", [False, True])
def test_an_adapter_that_rewrote_the_base_is_refused_and_the_base_stays(
    init: str, plain: bool, models: Path, tmp_path: Path
) -> None:
    """peft's olora does so in place, so nothing could be put back."""
    folder = train("llama", "lora", "instruction", {"lora": {"init": init}}, models, tmp_path / init)
    if plain:
        (folder / "tunesmith.json").unlink()
    bank = AdapterBank(str(whole("llama", models)), device="cpu")
    before = logits(bank.select(None))
    weights = [p.clone() for p in bank.base.donor.model.parameters()]
    with pytest.raises(tunesmith.UserError, match="rewriting the base"):
        bank.add(init, folder)
    assert torch.equal(logits(bank.select(None)), before) and bank.names == []
    assert all(torch.equal(a, b) for a, b in zip(weights, bank.base.donor.model.parameters(), strict=True))


@pytest.mark.parametrize(
    "named",
    [
        {"name": "some/where", "path": "some/where"},
        {"name": "asset:bert-tiny", "path": "x"},
        {"name": "x", "path": "/etc/passw"},
    ],
)
def test_nothing_that_an_artifact_names_is_looked_for(
    named: dict[str, str], world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base is open: by its hash an adapter belongs to it or does not, and no hub, download or file of this machine is asked."""
    from tunesmith.artifacts import store, switch

    folder = world["llama"][0][1]
    bank = AdapterBank(base(world, "llama"), device="cpu")

    def asked(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was looked for")

    for module in (store, switch):
        monkeypatch.setattr(module, "locate", asked)
    info = json.loads((folder / "tunesmith.json").read_text())
    for name, changed in (("same", {}), ("other", {"sha256": "0" * 64})):
        shutil.copytree(folder, tmp_path / name)
        reseal(tmp_path / name, {"base_model": {**info["base_model"], **named, **changed}})
    bank.add("same", tmp_path / "same")
    with pytest.raises(tunesmith.UserError, match="was made for"):
        bank.add("other", tmp_path / "other")


def test_a_plain_folder_of_another_asset_is_refused(world: dict[str, Any], tmp_path: Path) -> None:
    folder = world["llama"][0][1]
    config = json.loads((folder / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "asset:bert-tiny"}))
    shutil.copy(folder / "adapter_model.safetensors", tmp_path)
    with pytest.raises(tunesmith.UserError, match="was made for `asset:bert-tiny`"):
        AdapterBank(base(world, "llama"), device="cpu").add("plain", tmp_path)


def test_a_plain_peft_folder_is_an_adapter_too(world: dict[str, Any], tmp_path: Path) -> None:
    folder = world["llama"][0][1]
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(folder / name, tmp_path / name)
    bank = AdapterBank(base(world, "llama"), device="cpu")
    bank.add("ours", folder)
    bank.add("plain", tmp_path)
    assert torch.equal(logits(bank.select("ours")), logits(bank.select("plain"))) and bank.mixes("plain")
    # A folder that names a base elsewhere is tried on this one, and nobody asks a hub for what it names.
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "some/where"}))
    bank.add("elsewhere", tmp_path)
    assert torch.equal(logits(bank.select("ours")), logits(bank.select("elsewhere")))
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    name = next(iter(tensors))
    save_file({**tensors, name: torch.zeros(2, 2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(tunesmith.UserError, match="does not fit"):
        bank.add("shapes", tmp_path)
