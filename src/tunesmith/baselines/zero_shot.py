r"""Zero-shot: the untouched model is asked in words, and nothing is trained (Brown et al. 2020, section 2; Schick & Schütze 2021).

A decoder continues a template, a masked model fills its gap, and each label is scored by the first token of its word:

    text-classification    "{text}\\nQuestion: ... Answer:"  -> the label whose word is likeliest
    token-classification   the sentence, then `"{word}" is a`  -> the type whose word is likeliest, or none
    question-answering     context and question  -> what the model writes (decoders)
    the others             the untouched model under the task itself

A model whose checkpoint brings no language-model head cannot be asked, and the row says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from tunesmith import registry
from tunesmith.baselines._base import Baseline, Guess, loss_of, targets
from tunesmith.config import Options as BaseOptions
from tunesmith.config import RunConfig, is_new
from tunesmith.console import progress
from tunesmith.data.splits import Roles
from tunesmith.errors import TechniqueError
from tunesmith.models.load import Loaded, load_model, load_tokenizer, locate, longest_input
from tunesmith.tasks._base import Task, attention_mask, pad

ANSWER = 24  # tokens of a written answer


class Options(BaseOptions):
    """Options of zero-shot."""

    template: str | None = Field(
        None,
        description="the text with {text} (or {word} and {labels}), up to where the label stands; default: one for each task",
    )
    words: dict[str, str] = Field(
        default_factory=dict, description="the word that stands for a label, where its name does not"
    )
    max_rows: int | None = Field(
        None, ge=1, description="ask about the first N eval rows only; the others get the majority"
    )


class ZeroShot(Baseline):
    """The untouched model, asked in words."""

    Options = Options
    reads_model: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...]] = (
        "text-classification", "token-classification", "question-answering", "summarization", "instruction", "chat", "language-modeling",
    )  # fmt: skip

    def predict(self, task: Task, roles: Roles, config: RunConfig) -> Guess:
        """Ask about every eval row."""
        if is_new(config.model):
            raise TechniqueError(f"{config.model} starts from random weights, so there is nothing to ask it.")
        ask = {"text-classification": classify, "token-classification": tag, "question-answering": answer}
        values, loss = ask.get(task.name, score)(self.options, task, roles, config)
        return Guess(values, loss)


class Asker:
    """An untouched language model that says which token comes next, or stands in the gap."""

    def __init__(self, config: RunConfig) -> None:
        source = locate(config.model)
        tokenizer = load_tokenizer(source, trust_remote_code=config.trust_remote_code)
        cls = registry.load("task", "language-modeling")
        self.task = cls(cls.Options())
        self.loaded: Loaded = load_model(source, tokenizer, self.task, trust_remote_code=config.trust_remote_code)
        if self.loaded.backbone.head_names:
            raise TechniqueError(
                f"`{config.model}` brings no language-model head, so it cannot be asked in words: zero-shot is not defined for it."
            )
        self.tokenizer, self.batch_size = tokenizer, config.eval_batch_size
        self.masked = self.task.objective == "masked"
        self.room = longest_input(self.loaded.model.config, tokenizer)
        self.device = torch.device("cuda" if torch.cuda.is_available() and config.device in ("auto", "cuda") else "cpu")
        self.loaded.model.to(self.device).eval()

    def words(self, labels: Sequence[str], given: dict[str, str]) -> torch.Tensor:
        """The first token of each label's word.

        Raises:
            TechniqueError: two labels begin with the same token.
        """
        found: dict[int, str] = {}
        for label in labels:
            word = given.get(label) or label.replace("_", " ").replace("-", " ")
            ids = self.tokenizer(f" {word}".lower() if self.masked else f" {word}", add_special_tokens=False)[
                "input_ids"
            ]
            first = next((i for i in ids if self.tokenizer.decode([i]).strip()), self.tokenizer.unk_token_id)
            if first in found:
                raise TechniqueError(
                    f"zero-shot: the words for `{found[first]}` and `{label}` begin with the same token; give others with "
                    f"--set zero-shot.words.{label}=WORD."
                )
            found[first] = label
        return torch.tensor(list(found))

    def encode(self, before: str, after: str) -> list[int]:
        """Ids of a template around its gap; what is too long loses its beginning."""
        start, end = self.tokenizer.bos_token_id, None
        ids = list(self.tokenizer(before, add_special_tokens=False)["input_ids"])
        tail: list[int] = []
        if self.masked:
            start, end = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
            tail = [self.tokenizer.mask_token_id, *self.tokenizer(after, add_special_tokens=False)["input_ids"]]
            tail += [end] if end is not None else []
        if self.room:
            ids = ids[-(self.room - len(tail) - 1) :]
        return [*([start] if start is not None else []), *ids, *tail]

    @torch.no_grad()
    def ask(self, prompts: Sequence[str], choices: torch.Tensor, title: str) -> np.ndarray[Any, Any]:
        """Log p of each choice in the place of the answer, [prompts, choices], normalised over the choices."""
        encoded = [self.encode(prompt, ".") for prompt in prompts]
        order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
        found = np.zeros((len(prompts), len(choices)))
        with progress() as bar:
            shown = bar.add_task(title, total=len(prompts))
            for start in range(0, len(order), self.batch_size):
                block = order[start : start + self.batch_size]
                features = [{"input_ids": encoded[i]} for i in block]
                ids = pad(features, "input_ids", self.tokenizer.pad_token_id).to(self.device)
                mask = attention_mask(features).to(self.device)
                place = (ids == self.tokenizer.mask_token_id).int().argmax(1) if self.masked else mask.sum(1) - 1
                head = self.loaded.model.get_output_embeddings()
                rows = torch.arange(len(block), device=self.device)

                def select(module: Any, args: Any, rows: torch.Tensor = rows, place: torch.Tensor = place) -> Any:
                    return (args[0][rows, place], *args[1:])

                handle = head.register_forward_pre_hook(select)
                try:
                    logits = self.loaded.model(input_ids=ids, attention_mask=mask).logits
                finally:
                    handle.remove()
                found[block] = torch.log_softmax(logits.float()[:, choices.to(self.device)], -1).cpu().numpy()
                bar.advance(shown, len(block))
        return found


def classify(options: Any, task: Any, roles: Roles, config: RunConfig) -> tuple[Any, float]:
    """The label whose word is likeliest behind the text."""
    if task.problem != "single-label":
        raise TechniqueError(
            f"zero-shot text classification is defined for one label a row, and these rows are {task.problem}."
        )
    asker = Asker(config)
    names = ", ".join(options.words.get(label, label) for label in task.labels)
    template = options.template or (
        "{text} It is" if asker.masked else "{text}\n\nQuestion: which of these fits the text: " + names + "?\nAnswer:"
    )
    prompts = [
        template.replace("{text}", " ".join(str(row[n]) for n in ("text", "text_pair") if row.get(n)))
        for row in roles.eval.table
    ]
    scores = asker.ask(prompts, asker.words(task.labels, options.words), "zero-shot")
    chosen = scores.argmax(1)
    return chosen, loss_of("single-label", chosen, np.exp(scores), targets(task, roles.eval.table))


def tag(options: Any, task: Any, roles: Roles, config: RunConfig) -> tuple[Any, float]:
    """The type whose word is likeliest behind `"{word}" is a`, for each word; a run of one type is one entity."""
    asker = Asker(config)
    bio = task.scheme == "bio"
    types = sorted({label.partition("-")[2] for label in task.labels if "-" in label}) if bio else list(task.labels)
    named = dict(options.words)
    labels = ["O", *types] if bio else types
    named.setdefault("O", "word")
    template = options.template or '{text}\nIn this text, "{word}" is a'
    rows = list(roles.eval.table)[: options.max_rows]
    prompts = [
        template.replace("{text}", " ".join(row["tokens"])).replace("{word}", word)
        for row in rows
        for word in row["tokens"]
    ]
    scores = asker.ask(prompts, asker.words(labels, named), "zero-shot")
    values, place, nats, words = [], 0, 0.0, 0
    for row in rows:
        size = len(row["tokens"])
        part = scores[place : place + size]
        place += size
        found = [labels[i] for i in part.argmax(1)]
        values.append(begin(found) if bio else found)
        for line, truth in zip(part, task.truth(row), strict=True):
            kind = truth.partition("-")[2] if bio and "-" in truth else truth
            nats -= float(line[labels.index(kind)]) if kind in labels else -16.0
            words += 1
    rest = list(roles.eval.table)[len(rows) :]
    values += [["O" if bio else labels[0]] * len(row["tokens"]) for row in rest]
    return values, nats / max(words, 1)


def begin(types: Sequence[str]) -> list[str]:
    """Types of words as BIO tags."""
    return [t if t == "O" else f"{'I' if i and types[i - 1] == t else 'B'}-{t}" for i, t in enumerate(types)]


def answer(options: Any, task: Any, roles: Roles, config: RunConfig) -> tuple[Any, float]:
    """What a decoder writes behind context and question; its first line."""
    asker = Asker(config)
    if asker.masked:
        raise TechniqueError(
            f"`{config.model}` fills gaps and cannot write an answer: zero-shot question answering needs a decoder."
        )
    from transformers import GenerationConfig

    template = options.template or "{context}\n\nQuestion: {question}\nAnswer:"
    model, tokenizer, device = asker.loaded.model, asker.tokenizer, asker.device
    rows = list(roles.eval.table)
    values: list[str] = [""] * len(rows)
    nats, count = 0.0, 0
    chosen = GenerationConfig(
        max_new_tokens=ANSWER, do_sample=False, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id
    )
    asked = range(min(len(rows), options.max_rows or len(rows)))
    encoded = {}
    for i in asked:
        text = template.replace("{context}", str(rows[i]["context"])).replace("{question}", str(rows[i]["question"]))
        ids = asker.encode(text, "")
        encoded[i] = ids[-(asker.room - ANSWER) :] if asker.room else ids
    with torch.no_grad(), progress() as bar:
        shown = bar.add_task("zero-shot", total=len(encoded))
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
                values[i] = tokenizer.decode(row, skip_special_tokens=True).strip().split("\n")[0].strip()
                gold = next(iter(task.truth(rows[i])), "")
                wanted = tokenizer(f" {gold}", add_special_tokens=False)["input_ids"] or [tokenizer.eos_token_id]
                whole = torch.tensor([[*encoded[i], *wanted]], device=device)
                logits = (
                    model(input_ids=whole[:, -(asker.room or whole.shape[1]) :])
                    .logits[0, -len(wanted) - 1 : -1]
                    .float()
                )
                nats -= float(torch.log_softmax(logits, -1)[range(len(wanted)), wanted].sum())
                count += 1
            bar.advance(shown, len(block))
    return values, nats / max(count, 1)


def score(options: Any, task: Any, roles: Roles, config: RunConfig) -> tuple[Any, float]:
    """The untouched model under the task itself."""
    from tunesmith.data.encode import encode
    from tunesmith.evaluation.evaluate import evaluate
    from tunesmith.models.load import pick_max_length, positions

    source = locate(config.model)
    tokenizer = load_tokenizer(source, trust_remote_code=config.trust_remote_code)
    loaded = load_model(source, tokenizer, task, seed=config.seed, trust_remote_code=config.trust_remote_code)
    task.positions = positions(loaded, 0)
    device = torch.device("cuda" if torch.cuda.is_available() and config.device in ("auto", "cuda") else "cpu")
    rows = roles.eval
    encoded = encode(task, rows, tokenizer, pick_max_length(config.max_length, task.default_max_length, loaded))
    found = evaluate(
        loaded.model.to(device), task, rows.table, encoded, batch_size=config.eval_batch_size, device=device,
        pad_id=tokenizer.pad_token_id, title="zero-shot",
    )  # fmt: skip
    return [answer.value for answer in found.answers], found.metrics["loss"]
