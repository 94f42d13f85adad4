"""Asking a language model in words: what zero-shot and few-shot share.

    shots            a solved row each: the template, its answer, a blank line       (few-shot; Brown et al. 2020, section 2)
    the row          the template up to where the answer stands
    the answer       the label whose word's first token is likeliest there; for questions what is written up to the line's end

What all prompts begin with (the shots) runs once; its keys and values serve every row, where the model keeps them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tunesmith import registry
from tunesmith.baselines._base import loss_of, targets
from tunesmith.config import RunConfig
from tunesmith.console import progress, warn
from tunesmith.data.sources import Rows
from tunesmith.data.splits import Roles
from tunesmith.errors import TechniqueError
from tunesmith.models.load import Loaded, load_model, load_tokenizer, locate, longest_input
from tunesmith.tasks._base import attention_mask, pad

ANSWER = 24  # tokens of a written answer
KEPT = 8192  # positions of shots whose keys and values stand in memory at a time, over a batch
SHARE = 0.75  # of the model's positions that shots may take
Found = tuple[Any, float]
"""A value for every eval row as the task's metric takes it, and the mean loss."""


class Asker:
    """A language model that says which token comes next, or stands in the gap.

    Args:
        loaded: the model under its language-model head.
        task: the language-modelling task that is bound to it.
        batch_size: prompts in a forward pass.
        device: where it is.
        taken: positions that a technique takes for itself.
        how: the baseline's name, for errors.
    """

    def __init__(
        self, loaded: Loaded, task: Any, batch_size: int, device: Any, taken: int = 0, how: str = "zero-shot"
    ) -> None:
        self.how = how
        self.loaded, self.tokenizer, self.batch_size, self.device = loaded, loaded.tokenizer, batch_size, device
        self.masked = task.objective == "masked"
        longest = longest_input(loaded.model.config, self.tokenizer)
        self.room = longest - taken if longest else None
        self.shots: list[int] = []
        loaded.model.eval()

    @classmethod
    def open(cls, config: RunConfig, how: str) -> Asker:
        """The untouched model of a configuration.

        Raises:
            TechniqueError: it has no language-model head.
        """
        source = locate(config.model)
        tokenizer = load_tokenizer(source, trust_remote_code=config.trust_remote_code)
        language = registry.load("task", "language-modeling")
        task = language(language.Options())
        loaded = load_model(source, tokenizer, task, trust_remote_code=config.trust_remote_code)
        if loaded.backbone.head_names:
            raise TechniqueError(
                f"`{config.model}` brings no language-model head, so it cannot be asked in words: {how} is not defined for it."
            )
        device = torch.device("cuda" if torch.cuda.is_available() and config.device in ("auto", "cuda") else "cpu")
        loaded.model.to(device)
        return cls(loaded, task, config.eval_batch_size, device, how=how)

    def show(self, solved: Sequence[str]) -> None:
        """Put solved rows before every prompt, as many as fit: the first are left out."""
        kept = list(solved)
        while kept:
            ids = self._begin() + self._ids("".join(f"{each}\n\n" for each in kept))
            if not self.room or len(ids) <= SHARE * self.room:
                self.shots = ids
                break
            kept.pop(0)
        if len(kept) < len(solved):
            warn(f"{len(kept)} of {len(solved)} shots fit into the {self.room} positions of the model.")

    def words(self, labels: Sequence[str], given: Mapping[str, str]) -> torch.Tensor:
        """The first token of each label's word.

        Raises:
            TechniqueError: two labels begin with the same token.
        """
        found: dict[int, str] = {}
        for label in labels:
            ids = self._ids(f" {word_of(label, given)}".lower() if self.masked else f" {word_of(label, given)}")
            first = next((i for i in ids if self.tokenizer.decode([i]).strip()), self.tokenizer.unk_token_id)
            if first in found:
                raise TechniqueError(
                    f"{self.how}: the words for `{found[first]}` and `{label}` begin with the same token; give others with "
                    f"--set {self.how}.words.{label}=WORD."
                )
            found[first] = label
        return torch.tensor(list(found))

    def encode(self, before: str, after: str) -> list[int]:
        """Ids of a template around its gap, without the shots; what is too long loses its beginning."""
        ids, tail = self._ids(before), []
        start = [] if self.shots else self._begin()
        if self.masked:
            start, end = [self.tokenizer.cls_token_id], self.tokenizer.sep_token_id
            start = [token for token in start if token is not None]
            tail = [self.tokenizer.mask_token_id, *self._ids(after)]
            tail += [end] if end is not None else []
        if self.room:
            ids = ids[-(self.room - len(self.shots) - len(tail) - 1) :]
        return [*start, *ids, *tail]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _begin(self) -> list[int]:
        return [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]

    @torch.no_grad()
    def ask(self, prompts: Sequence[str], choices: torch.Tensor, title: str) -> np.ndarray[Any, Any]:
        """Log p of each choice in the place of the answer, [prompts, choices], normalised over the choices."""
        encoded = [self.encode(prompt, ".") for prompt in prompts]
        order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
        found = np.zeros((len(prompts), len(choices)))
        size, cache = self.batch_size, self._run_shots()
        if self.shots:
            size = max(1, min(size, KEPT // len(self.shots)))
            encoded = encoded if cache is not None else [[*self.shots, *ids] for ids in encoded]
        with progress() as bar:
            shown = bar.add_task(title, total=len(prompts))
            for start in range(0, len(order), size):
                block = order[start : start + size]
                features = [{"input_ids": encoded[i]} for i in block]
                ids = pad(features, "input_ids", self.tokenizer.pad_token_id).to(self.device)
                mask = attention_mask(features).to(self.device)
                place = (ids == self.tokenizer.mask_token_id).int().argmax(1) if self.masked else mask.sum(1) - 1
                head = self.loaded.model.get_output_embeddings()
                rows = torch.arange(len(block), device=self.device)

                def select(module: Any, args: Any, rows: torch.Tensor = rows, place: torch.Tensor = place) -> Any:
                    return (args[0][rows, place], *args[1:])

                more: dict[str, Any] = {}
                if cache is not None:
                    before = mask.new_ones(len(block), len(self.shots))
                    past = copy.deepcopy(cache)
                    past.batch_repeat_interleave(len(block))
                    more, mask = {"past_key_values": past, "use_cache": True}, torch.cat([before, mask], 1)
                handle = head.register_forward_pre_hook(select)
                try:
                    logits = self.loaded.model(input_ids=ids, attention_mask=mask, **more).logits
                finally:
                    handle.remove()
                found[block] = torch.log_softmax(logits.float()[:, choices.to(self.device)], -1).cpu().numpy()
                bar.advance(shown, len(block))
        return found

    def _run_shots(self) -> Any:
        """Keys and values of the shots; None without shots, or where the model keeps none that can be repeated."""
        if not self.shots:
            return None
        ids = torch.tensor([self.shots], device=self.device)
        cache = getattr(self.loaded.model(input_ids=ids, use_cache=True), "past_key_values", None)
        return cache if hasattr(cache, "batch_repeat_interleave") else None


def word_of(label: str, given: Mapping[str, str]) -> str:
    """What stands for a label in words."""
    return given.get(label) or label.replace("_", " ").replace("-", " ")


def classify(asker: Asker, options: Any, task: Any, roles: Roles, shots: Sequence[Mapping[str, Any]] = ()) -> Found:
    """The label whose word is likeliest behind the text."""
    if task.problem != "single-label":
        raise TechniqueError(
            f"asking about labels in words is defined for one label a row, and these rows are {task.problem}."
        )
    names = ", ".join(options.words.get(label, label) for label in task.labels)
    template = options.template or (
        "{text} It is" if asker.masked else "{text}\n\nQuestion: which of these fits the text: " + names + "?\nAnswer:"
    )

    def prompt(row: Mapping[str, Any]) -> str:
        return template.replace("{text}", " ".join(str(row[n]) for n in ("text", "text_pair") if row.get(n)))

    asker.show(
        [f"{prompt(row)} {word_of(task.labels[int(task.target(row['label']))], options.words)}" for row in shots]
    )
    scores = asker.ask([prompt(row) for row in roles.eval.table], asker.words(task.labels, options.words), "asking")
    chosen = scores.argmax(1)
    return chosen, loss_of("single-label", chosen, np.exp(scores), targets(task, roles.eval.table))


def tag(asker: Asker, options: Any, task: Any, roles: Roles, shots: Sequence[Mapping[str, Any]] = ()) -> Found:
    """The type whose word is likeliest behind `"{word}" is a`, for each word; a run of one type is one entity.

    A shot is a row with one of its words under `word` and the label of it under `label`.
    """
    bio = task.scheme == "bio"
    labels = types_of(task)
    named = {"O": "word", **options.words}
    template = options.template or '{text}\nIn this text, "{word}" is a'

    def prompt(row: Mapping[str, Any], word: str) -> str:
        return template.replace("{text}", " ".join(task.words(row))).replace("{word}", word)

    asker.show([f"{prompt(row, row['word'])} {word_of(row['label'], named)}" for row in shots])
    rows = list(roles.eval.table)[: options.max_rows]
    prompts = [prompt(row, word) for row in rows for word in task.words(row)]
    scores = asker.ask(prompts, asker.words(labels, named), "asking")
    values, place, nats, words = [], 0, 0.0, 0
    for row in rows:
        size = len(task.words(row))
        part = scores[place : place + size]
        place += size
        found = [labels[i] for i in part.argmax(1)]
        values.append(begin(found) if bio else found)
        for line, truth in zip(part, task.truth(row), strict=True):
            kind = kind_of(task, truth)
            nats -= float(line[labels.index(kind)]) if kind in labels else -16.0
            words += 1
    rest = list(roles.eval.table)[len(rows) :]
    values += [["O" if bio else labels[0]] * len(task.words(row)) for row in rest]
    return values, nats / max(words, 1)


def types_of(task: Any) -> list[str]:
    """What a word can be: the entity types and none, or the tags."""
    if task.scheme != "bio":
        return list(task.labels)
    return ["O", *sorted({label.partition("-")[2] for label in task.labels if "-" in label})]


def kind_of(task: Any, tag: str) -> str:
    """What a word with this tag is."""
    return tag.partition("-")[2] if task.scheme == "bio" and "-" in tag else tag


def begin(types: Sequence[str]) -> list[str]:
    """Types of words as BIO tags."""
    return [t if t == "O" else f"{'I' if i and types[i - 1] == t else 'B'}-{t}" for i, t in enumerate(types)]


def answer(asker: Asker, options: Any, task: Any, roles: Roles, shots: Sequence[Mapping[str, Any]] = ()) -> Found:
    """What a decoder writes behind context and question; its first line."""
    if asker.masked:
        raise TechniqueError(
            f"`{asker.loaded.source.name}` fills gaps and cannot write an answer: asking it questions needs a decoder."
        )
    from transformers import GenerationConfig

    template = options.template or "{context}\n\nQuestion: {question}\nAnswer:"

    def prompt(row: Mapping[str, Any]) -> str:
        return template.replace("{context}", str(row["context"])).replace("{question}", str(row["question"]))

    def gold(row: Mapping[str, Any]) -> str:
        return str(next(iter(task.truth(row)), ""))

    asker.show([f"{prompt(row)} {gold(row) or UNANSWERABLE}" for row in shots])
    model, tokenizer, device = asker.loaded.model, asker.tokenizer, asker.device
    rows = list(roles.eval.table)
    values: list[str] = [""] * len(rows)
    nats, count = 0.0, 0
    chosen = GenerationConfig(
        max_new_tokens=ANSWER, do_sample=False, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id
    )
    encoded = {}
    for i in range(min(len(rows), options.max_rows or len(rows))):
        ids = asker.encode(prompt(rows[i]), "")
        ids = ids[-(asker.room - ANSWER - len(asker.shots)) :] if asker.room else ids
        encoded[i] = [*asker.shots, *ids]
    with torch.no_grad(), progress() as bar:
        shown = bar.add_task("asking", total=len(encoded))
        order = sorted(encoded, key=lambda i: -len(encoded[i]))
        for start in range(0, len(order), 8):
            block = order[start : start + 8]
            features = [{"input_ids": encoded[i]} for i in block]
            table = pad(features, "input_ids", tokenizer.pad_token_id, left=True).to(device)
            mask = attention_mask(features, left=True).to(device)
            written = model.generate(input_ids=table, attention_mask=mask, generation_config=chosen)[
                :, table.shape[1] :
            ]
            for i, row in zip(block, written.tolist(), strict=True):
                text = tokenizer.decode(row, skip_special_tokens=True).strip().split("\n")[0].strip()
                values[i] = "" if shots and text == UNANSWERABLE else text
                wanted = tokenizer(f" {gold(rows[i])}", add_special_tokens=False)["input_ids"]
                wanted = wanted or [tokenizer.eos_token_id]
                whole = torch.tensor([[*encoded[i], *wanted]], device=device)
                logits = model(input_ids=whole[:, -(asker.room or whole.shape[1]) :]).logits
                logits = logits[0, -len(wanted) - 1 : -1].float()
                nats -= float(torch.log_softmax(logits, -1)[range(len(wanted)), wanted].sum())
                count += 1
            bar.advance(shown, len(block))
    return values, nats / max(count, 1)


def written(task: Any, rows: Rows, config: RunConfig, *, whole: bool = False) -> Found:
    """The untouched model under a task that writes.

    Args:
        task: fitted.
        rows: to answer.
        config: names the model.
        whole: read as much as the model can, whatever `max_length` says.
    """
    from tunesmith.data.encode import encode
    from tunesmith.evaluation.evaluate import evaluate
    from tunesmith.models.load import pick_max_length, positions

    source = locate(config.model)
    tokenizer = load_tokenizer(source, trust_remote_code=config.trust_remote_code)
    loaded = load_model(source, tokenizer, task, seed=config.seed, trust_remote_code=config.trust_remote_code)
    task.positions = positions(loaded, 0)
    device = torch.device("cuda" if torch.cuda.is_available() and config.device in ("auto", "cuda") else "cpu")
    length = pick_max_length(config.max_length, task.default_max_length, loaded)
    if whole:
        length = task.positions or max(length, WHOLE)
    encoded = encode(task, rows, tokenizer, length)
    found = evaluate(
        loaded.model.to(device), task, rows.table, encoded, batch_size=config.eval_batch_size, device=device,
        pad_id=tokenizer.pad_token_id, title="asking",
    )  # fmt: skip
    return [answer.value for answer in found.answers], found.metrics["loss"]


UNANSWERABLE = "unanswerable"
WHOLE = 2048  # tokens of a prompt where nothing bounds the model
ASK: dict[str, Callable[..., Found]] = {
    "text-classification": classify, "token-classification": tag, "question-answering": answer,
}  # fmt: skip
