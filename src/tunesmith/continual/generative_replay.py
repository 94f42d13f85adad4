r"""Generative replay: rows of earlier stages are made up by a language model and learned along (Shin et al. 2017).

Nothing of earlier stages is kept but what a model remembers of them:

    tasks that write     the model itself generates whole rows before each new stage (LAMOL, Sun et al. 2020, section 3.2). To be able to, it
                         learns every row, a made-up one too, a second time as text behind the name of its task:
                         loss + lm_weight * -log p("NAME: prompt answer")
    tasks that read      a small language model, trained beside it on the texts of all stages so far, writes texts behind the name of a
                         task, and the model as the stage before left it gives them their labels

Made-up rows that repeat another, that do not end, or of whose label the model is less sure than `confidence`, are dropped.
`generated/STAGE.jsonl` in the run's folder shows every one with its fate.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, field_validator

from tunesmith import durable
from tunesmith.cache.store import file_sha256
from tunesmith.config import Options as BaseOptions
from tunesmith.config import RunConfig
from tunesmith.continual._rehearsal import Rehearsal, encoded
from tunesmith.errors import TechniqueError
from tunesmith.seeding import derive

BATCH = 64  # rows written at a time
ANSWER = 8  # tokens of an answer in a control
VOCABULARY = 2000  # tokens of the small language model: it has few texts to learn from


class Options(BaseOptions):
    """Options of generative replay."""

    ratio: float = Field(
        0.2, gt=0, description="rows that are made up before a stage, as a share of the stage's own rows"
    )
    share: float = Field(0.5, gt=0, description="made-up rows in a step, as a share of the batch size")
    weight: float = Field(1.0, gt=0, description="factor of their loss")
    lm_weight: float = Field(
        0.25, ge=0, description="tasks that write: factor of learning rows as text, which generating needs"
    )
    confidence: float = Field(
        0.6, ge=0, le=1, description="tasks that read: least probability of a label that is believed"
    )
    temperature: float = Field(1.0, gt=0, description="of sampling")
    top_k: int = Field(20, ge=0, description="draw from the k likeliest tokens; 0 for all")
    max_tokens: int = Field(128, ge=1, description="longest row that is made up")
    attempts: int = Field(3, ge=1, description="times as many rows as are wanted are written at most")
    generator: str = Field("new:lstm", description="tasks that read: the language model that is trained beside")
    generator_hidden: int = Field(192, ge=8, description="width of that language model")
    generator_epochs: float = Field(10.0, gt=0, description="passes over the texts that it is trained for")
    texts: str = Field(
        "generated",
        description="`random` draws tokens blindly instead, and a text file is cut into passages: controls that show what generating is worth",
    )

    @field_validator("texts")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ("generated", "random") and not Path(value).is_file():
            raise ValueError(f"`{value}` is neither generated nor random nor a text file")
        return value


class GenerativeReplay(Rehearsal):
    """Made-up rows of earlier stages."""

    Options = Options

    def further_inputs(self, config: RunConfig) -> dict[str, str]:
        """The text that passages are cut from."""
        texts = self.options.texts
        return {} if texts in ("generated", "random") else {f"texts {texts}": file_sha256(Path(texts))}

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.generator: str | None = None
        self.shapes: dict[str, dict[str, Any]] = {}

    # ---- making rows up

    def before_stage(self, session: Any) -> None:
        """Make up rows of every earlier task with the model as it stands, or read those that were made before a kill."""
        self.features = []
        if not session.earlier:
            return
        file = Path(session.folder) / "generated" / f"{session.stage}.jsonl"
        if not (session.resume and file.is_file()):
            total = max(1, round(self.options.ratio * sum(len(part.roles.train) for part in session.parts.values())))
            each = max(1, total // len(session.earlier))
            rows = [row for part in session.earlier.values() for row in self._imagine(session, part, each)]
            durable.write(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["kept"]:
                part = session.earlier[row["task"]]
                self.features.append((part, self._features(session, part, row)))

    def _features(self, session: Any, part: Any, row: Mapping[str, Any]) -> list[Any]:
        if "prompt_ids" in row:
            return [{**part.task.feature(row["prompt_ids"], row["target_ids"]), "row": 0}]
        return encoded(session, part, row["row"])

    def _imagine(self, session: Any, part: Any, count: int) -> list[dict[str, Any]]:
        """Rows of a task, kept ones and dropped ones, until `count` are kept or the attempts are used up."""
        writes = not part.task.owns_head
        found: list[dict[str, Any]] = []
        seen: set[str] = set()
        kept, drawn = 0, 0
        while kept < count and drawn < self.options.attempts * count:
            size = min(BATCH, self.options.attempts * count - drawn)
            seed = derive(session.config.seed, "imagine", session.stage, part.name, drawn)
            rows = self._write_rows(session, part, size, seed) if writes else self._read_rows(session, part, size, seed)
            drawn += size
            for row in rows:
                text = json.dumps([row.get("prompt"), row.get("target"), row.get("row")], ensure_ascii=False)
                if row["kept"] and text in seen:
                    row = {**row, "kept": False, "why": "repeats another"}
                if row["kept"] and kept >= count:
                    row = {**row, "kept": False, "why": "enough"}
                seen.add(text)
                kept += row["kept"]
                found.append({"task": part.name, **row})
        return found

    def _write_rows(self, session: Any, part: Any, size: int, seed: int) -> list[dict[str, Any]]:
        """Whole rows by the model itself, behind the task's name."""
        model, tokenizer = session.heads[part.head].model, session.heads.first.tokenizer
        shape = self.shapes[part.name]
        start = self._start(tokenizer, part.name)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            written = self._sample(session, model, tokenizer, start, size, part.task.stops, shape["border"])
        rows = []
        for ids in written:
            place = after(ids, shape["border"])
            answer, ended = without(ids[place:], part.task.stops)
            body = [*ids[:place], *answer]
            why = "has no answer" if shape["border"] and not place else "" if ended and answer else "does not end"
            target = [*answer, part.task.stops[0]]
            rows.append({
                "prompt": tokenizer.decode(body[:place] if place else body), "target": tokenizer.decode(target), "prompt_ids": body[:place],
                "target_ids": target, "kept": not why, "why": why,
            })  # fmt: skip
        return rows

    def _read_rows(self, session: Any, part: Any, size: int, seed: int) -> list[dict[str, Any]]:
        """Texts by the small model, labels by the large one."""
        artifact = session.open(self.generator)
        tokenizer = artifact.tokenizer
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            written = self._sample(
                session,
                artifact.model,
                tokenizer,
                self._start(tokenizer, part.name),
                size,
                [tokenizer.eos_token_id],
                [],
            )
        texts = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in written]
        rows = [row for row in map(part.task.row_of_text, texts) if row is not None]
        found = []
        for row, answer in zip(rows, session.answers(part, rows) if rows else [], strict=True):
            sure = confidence(part.task, answer)
            why = "" if sure >= self.options.confidence else f"the label is unsure ({sure:.2f})"
            found.append({"row": part.task.with_answer(row, answer), "kept": not why, "why": why, "confidence": sure})
        return found

    def _sample(
        self,
        session: Any,
        model: Any,
        tokenizer: Any,
        start: Sequence[int],
        size: int,
        stops: Sequence[int],
        border: Sequence[int],
    ) -> list[list[int]]:
        from transformers import GenerationConfig

        if self.options.texts != "generated":
            return self._control(tokenizer, size, stops, border)
        ids = torch.tensor([list(start)] * size, device=session.device)
        chosen = GenerationConfig(
            max_new_tokens=self.options.max_tokens, do_sample=True, temperature=self.options.temperature, top_k=self.options.top_k,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        # `generate` fills in from the model's own settings what is left open here: an end token too, and a chat's system turn has one.
        own, model.generation_config = model.generation_config, GenerationConfig()

        def ended(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            """Rows with a stop behind the border: a prompt's own turns end with one too."""
            rows = [row[len(start) :] for row in ids.tolist()]
            done = [any(t in stops for t in row[after(row, border) :]) for row in rows]
            waiting = [bool(border) and not after(row, border) for row in rows]
            return torch.tensor([d and not w for d, w in zip(done, waiting, strict=True)], device=ids.device)

        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                written = model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    generation_config=chosen,
                    stopping_criteria=[ended],
                )
        finally:
            model.generation_config = own
            model.train(training)
        return [row[len(start) :] for row in written.tolist()]

    def _control(self, tokenizer: Any, size: int, stops: Sequence[int], border: Sequence[int]) -> list[list[int]]:
        """Rows that know nothing of the task: random tokens that are to be repeated, or passages of a text that are to be continued."""
        length = self.options.max_tokens // 2
        if self.options.texts == "random":
            drawn = torch.randint(0, len(tokenizer), (size, length)).tolist()
            return [[*row, *border, *row[:ANSWER], stops[0]] for row in drawn]
        text = Path(self.options.texts).read_text(encoding="utf-8")
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) < length + ANSWER:
            raise TechniqueError(
                f"generative-replay.texts: `{self.options.texts}` has {len(ids)} tokens, and a passage takes {length + ANSWER}; take a longer text."
            )
        starts = torch.randint(0, len(ids) - length - ANSWER + 1, (size,)).tolist()
        cuts = [ids[at : at + length + ANSWER] for at in starts]
        return [[*cut[:-ANSWER], *border, *cut[-ANSWER:], stops[0]] for cut in cuts]

    @staticmethod
    def _start(tokenizer: Any, name: str) -> list[int]:
        """What stands before a row that is written as text."""
        begin = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        return [*begin, *tokenizer(f"{name}: ", add_special_tokens=False)["input_ids"]]

    # ---- learning to make rows up

    def objection(self, task: Any, kind: str) -> str | None:
        """Rows must be made of text alone, and a model that writes must write them from their beginning."""
        if kind == "encoder-decoder" and not task.owns_head:
            return "generative-replay makes rows up from their beginning, which an encoder-decoder does not write; take a decoder or experience-replay."
        if not task.owns_head and not hasattr(task, "feature"):
            return f"generative-replay makes up rows with an answer, and those of {task.name} have none; take experience-replay."
        if task.owns_head and not task.made_of_text:
            return f"generative-replay cannot make up rows of {task.name}: nothing says what they ask; take experience-replay."
        return None

    def before_model(self, heads: Any, stage_number: int, parts: Mapping[str, Any]) -> None:
        """Learn how rows of the stage's tasks are built.

        Raises:
            TechniqueError: a task whose rows cannot be made up.
        """
        for part in parts.values():
            reason = self.objection(part.task, heads.backbone.kind)
            if reason is not None:
                raise TechniqueError(reason)
            if not part.task.owns_head:
                rows = [part.encoded["train"][i] for i in range(min(64, len(part.encoded["train"])))]
                prompts = [list(map(int, row["input_ids"][: int(row.get("prompt", 0))])) for row in rows]
                self.shapes[part.name] = {"border": common_end(prompts)}

    def extra_batches(self, session: Any, passes: Sequence[Any]) -> list[Any]:
        """Made-up rows, and the rows of tasks that write, own ones and made-up ones, once more as text."""
        found = super().extra_batches(session, passes)
        if not self.options.lm_weight:
            return found
        written = [each for each in (*passes, *found) if not each.task.owns_head and "labels" in each.batch]
        for each in written:
            name = each.part.removeprefix("replay:") or next(iter(session.parts))
            found.append(self._as_text(session, each, name))
        return found

    def _as_text(self, session: Any, each: Any, name: str) -> Any:
        """A pass over the same rows in which every token is learned, behind the task's name."""
        from dataclasses import replace

        start = torch.tensor(self._start(session.heads.first.tokenizer, name), device=session.device)
        ids, mask = each.batch["input_ids"], each.batch["attention_mask"]
        front = start[None].expand(len(ids), -1)
        whole = torch.cat([front, ids], 1)
        visible = torch.cat([torch.ones_like(front), mask], 1)
        labels = torch.cat([whole[:, 1:], torch.full_like(whole[:, :1], -100)], 1)
        labels = labels.masked_fill(torch.cat([visible[:, 1:], torch.zeros_like(visible[:, :1])], 1) == 0, -100)
        labels[:, : len(start) - 1] = -100
        batch = {"input_ids": whole, "attention_mask": visible, "labels": labels}
        units = float((labels != -100).sum())
        return replace(
            each, batch=batch, part=f"text:{name}", weight=each.weight * self.options.lm_weight, units=units, tokens=0,
            loss=lambda this: this.task.loss(this.task.forward(this.model, this.batch), this.batch),
        )  # fmt: skip

    def after_stage(self, session: Any) -> None:
        """Train the small model on the texts of this stage and on what it remembered of the earlier ones."""
        texts = []
        tokenizer = session.heads.first.tokenizer
        for part in session.parts.values():
            if part.task.owns_head:
                whole = [part.task.text_of(row) for row in part.roles.train.table]
                longest = min(part.max_length, self.options.max_tokens)
                texts += [f"{part.name}: {text}" for text in beginnings(whole, tokenizer, longest)]
        for part, name in ((p, p.name) for p in session.earlier.values() if p.task.owns_head):
            file = Path(session.folder) / "generated" / f"{session.stage}.jsonl"
            lines = (
                [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
            )
            texts += [
                f"{name}: {part.task.text_of(row['row'])}" for row in lines if row["task"] == name and row["kept"]
            ]
        if texts:
            place = Path(session.folder) / "generated" / f"texts-{session.stage}.jsonl"
            durable.write(place, "".join(json.dumps({"text": text}) + "\n" for text in texts))
            settings = {
                "model": self.options.generator, "task": "language-modeling", "train": str(place), "epochs": self.options.generator_epochs,
                "new": {"hidden": self.options.generator_hidden, "layers": 1, "vocabulary": VOCABULARY},
                "technique": "full", "doctor": False, "max_length": self.options.max_tokens, "seed": session.config.seed, "device": session.config.device,
            }  # fmt: skip
            self.generator = session.nested(settings, f"generator-{session.stage}")

    def files(self, folder: Path) -> list[Path]:
        """The small model."""
        return [Path(self.generator)] if self.generator else []

    def state_dict(self) -> dict[str, Any]:
        """Where the small model lies, and how rows are built."""
        return {"generator": self.generator, "shapes": self.shapes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.generator, self.shapes = state["generator"], dict(state["shapes"])


def confidence(task: Any, answer: Any) -> float:
    """The least sure of a row's probabilities: its label's, those of its labels' yes or no, or those of its words; 1 of a number."""
    problem = getattr(task, "problem", "")
    if problem == "regression":
        return 1.0
    numbers = [float(n) for n in np.ravel(answer.numbers)]
    if problem == "multi-label":
        numbers = [max(n, 1 - n) for n in numbers]
    return min(numbers, default=0.0)


def beginnings(texts: Sequence[str], tokenizer: Any, longest: int) -> list[str]:
    """Each text as far as its first tokens go: what a task reads of it, so that no generator learns what nobody reads."""
    cut = tokenizer(
        list(texts), add_special_tokens=False, truncation=True, max_length=longest, return_offsets_mapping=True
    )
    ends = [spans[-1][1] if spans else 0 for spans in cut["offset_mapping"]]
    return [text[:end] for text, end in zip(texts, ends, strict=True)]


def common_end(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The longest run of ids that every prompt ends with: the mark between what is asked and what is answered."""
    shortest = min((len(p) for p in prompts), default=0)
    length = 0
    while length < shortest and len({p[-1 - length] for p in prompts}) == 1:
        length += 1
    return list(prompts[0][len(prompts[0]) - length :]) if length else []


def after(ids: Sequence[int], border: Sequence[int]) -> int:
    """The place behind the first occurrence of a border, 0 where there is none."""
    size = len(border)
    for place in range(len(ids) - size + 1) if size else ():
        if list(ids[place : place + size]) == list(border):
            return place + size
    return 0


def without(ids: Sequence[int], stops: Sequence[int]) -> tuple[list[int], bool]:
    """Ids up to the last stop that ends the text, and whether one does."""
    found = list(ids)
    for place, token in enumerate(found):
        if token in stops:
            return found[:place], True
    return found, False
