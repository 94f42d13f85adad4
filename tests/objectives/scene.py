"""A student with its teacher before the first step, through the code that a run goes through, and teachers that nobody had to train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tunesmith.config import RunConfig, build
from tunesmith.data.sources import write_objects
from tunesmith.models.recorder import Recorder
from tunesmith.preparation import open_model, prepare
from tunesmith.registry import load
from tunesmith.stage import Turn, attach, ground_of, make_feed
from tunesmith.stream import stages_of
from tunesmith.testing import tiny_model
from tunesmith.testing.models import WORDS
from tunesmith.testing.rows import rows_for
from tunesmith.testing.techniques import Bench


class Scene:
    """Everything that is there when a stage begins."""

    def __init__(
        self, place: Path, model: Path, teacher: Any, task: str = "text-classification", rows: Any = None, options: Any = None,
        **settings: Any,
    ) -> None:  # fmt: skip
        rows = rows if rows is not None else rows_for(task, 16)
        train, held = write_objects(rows[:12], place / "train.jsonl"), write_objects(rows[12:], place / "eval.jsonl")
        raw: dict[str, Any] = {
            "model": str(model), "task": task, "train": str(train), "eval": str(held), "technique": "full", "device": "cpu",
            "dtype": "float32", "doctor": False, "objective": "distillation", "teacher": teacher, "output": str(place), "batch_size": 8,
            "max_length": 48, "distillation": options or {}, **settings,
        }  # fmt: skip
        if raw["objective"] == "supervised":
            del raw["teacher"], raw["distillation"]
        self.config = build(RunConfig, raw)
        (stage,) = stages_of(self.config)
        self.model = open_model(self.config, place)
        self.parts = prepare(self.model, stage, {})
        turn = Turn(stage, 0, 1, self.parts, {}, load("strategy", "none")(None), True)
        attach(self.model, turn)
        self.objective = self.model.objective
        self.ground = ground_of(self.model, self.parts, "")
        self.objective.prepare(self.ground)
        (self.part,) = self.parts.values()
        inside = self.objective.required_outputs()
        recorder = Recorder(self.model.heads.backbone, inside).install() if inside else None
        self.feed, _ = make_feed(self.model, turn, None, None, recorder)
        for loaded in self.model.heads.loaded.values():
            loaded.model.eval()

    @property
    def taught(self) -> Any:
        (found,) = self.objective.taught.values()
        return found

    def passes(self) -> list[Any]:
        return list(next(self.feed.steps(0, 1)))

    def loss(self) -> float:
        """Over the first step's units."""
        with torch.no_grad():
            return sum(float(self.objective.loss(each)) for each in self.passes()) / sum(p.units for p in self.passes())


def teacher(
    models_: Path, kind: str = "bert", task: str = "text-classification", seed: int = 5, noise: float = 0.1
) -> str:
    """A model folder with a head for a task, whose weights nobody trained but that differ from the tiny model's."""
    folder = models_ / f"teacher-{kind}-{task}-{seed}-{noise}"
    if not (folder / "config.json").is_file():
        bench = Bench(kind, models_, "full", task=task, seed=seed)
        model: Any = bench.loaded.model
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            for parameter in dict.fromkeys(model.parameters()):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * noise)
        model.save_pretrained(folder)
        bench.loaded.tokenizer.save_pretrained(folder)
    return str(folder)


def letters(folder: Path, target: Path, kind: str = "bert") -> Path:
    """The same kind of model over a tokenizer that cuts words into letters (`film` -> f ##i ##l ##m)."""
    if (target / "config.json").is_file():
        return target
    found = sorted({c for word in WORDS for c in word})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *found, *(f"##{c}" for c in found), "the", "film"]
    core = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return _with(core, tiny_model(kind, folder / kind), target, kind)


def shuffled(source: Path, target: Path) -> Path:
    """The same language model with its vocabulary in another order: it says the same of the same words."""
    import json

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    size = len(tokenizer)
    place = torch.cat([torch.arange(5), 5 + torch.randperm(size - 5, generator=torch.Generator().manual_seed(0))])
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["vocab"] = {word: int(place[i]) for word, i in state["model"]["vocab"].items()}
    model = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        for embedding in {
            id(m.weight): m.weight for m in (model.get_input_embeddings(), model.get_output_embeddings())
        }.values():
            embedding[place] = embedding.clone()
    model.save_pretrained(target)
    core = Tokenizer.from_str(json.dumps(state))
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]", bos_token="[CLS]",
        eos_token="[SEP]", model_max_length=128, model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(target)  # fmt: skip
    return target


def _with(core: Any, source: Path, target: Path, kind: str) -> Path:
    from transformers import AutoConfig, AutoModel

    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    config = AutoConfig.from_pretrained(source)
    config.vocab_size = core.get_vocab_size()
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = AutoModel.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.15)
    model.save_pretrained(target)
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]", bos_token="[CLS]",
        eos_token="[SEP]", model_max_length=128, model_input_names=["input_ids", *(["token_type_ids"] if kind == "bert" else []), "attention_mask"],
    ).save_pretrained(target)  # fmt: skip
    return target
