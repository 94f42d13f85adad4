"""What a run must not forget (`retain`), measured before it and on what it saved.

    a general text     the pretrained language model's own output layer on the backbone as it is now; where the checkpoint
                       brings none, how far the representations moved (`evaluation.drift`), which is no loss and is never called one
    rows of a task     the head of the run that this one continues; a writing task through the model's own output layer;
                       else the language model is asked in words, as the zero-shot baseline is

All heads share one backbone object, so the output layer that the checkpoint brought is put, as one more head, on the backbone that a
classifier was trained with. Everything is measured in fp32 on the artifact, opened again; of a model that did not change, and of
a technique that starts as the identity, exactly 0 is forgotten.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from tunesmith import config as configuration
from tunesmith import registry
from tunesmith.artifacts.card import note
from tunesmith.config import RunConfig, is_new
from tunesmith.console import say
from tunesmith.data import sources
from tunesmith.data.encode import encode, refuse_nothing
from tunesmith.data.passages import passages
from tunesmith.data.sources import Rows
from tunesmith.errors import DataError, ModelError, UserError
from tunesmith.evaluation import drift, forgetting
from tunesmith.evaluation.evaluate import Scored, evaluate
from tunesmith.models.heads import can_share
from tunesmith.models.load import Loaded, load_model, load_tokenizer, locate, pick_max_length
from tunesmith.models.recurrence import step_by_step
from tunesmith.options import RetainOptions
from tunesmith.preparation import Model, reopen

HEAD = "(retained)"
"""Name of the head that is put on a model to measure it; such a model is never saved."""
LENGTH = 256  # tokens of a passage
PASSAGES = 64  # of a general text: about 16,000 tokens
ASKABLE = ("text-classification", "token-classification", "question-answering")


class Yardstick(ABC):
    """Rows, and what a model scores on them.

    Attributes:
        kind: `general text`, `representation` or a task's name.
        metric: what forgetting is told by.
        how: what the metric is, in words.
        fresh: the pretrained model, measured once if that is where the run starts.
        before: its metrics before the run.
    """

    kind: str
    metric: str
    how: str

    def __init__(self, run: Model, rows: Rows, fresh: Loaded | None) -> None:
        self.config, self.technique, self.device = run.config, run.technique, run.device
        self.rows, self.fresh = rows, fresh
        self.before: dict[str, float] = {}

    @abstractmethod
    def measure(self, model: Model | None) -> dict[str, float]:
        """Metrics of an opened artifact, or of the pretrained model (None); a head may be put on the artifact's model."""

    def conclude(self, model: Model, title: str) -> dict[str, Any]:
        """The `forgetting` entry for what was saved; it is said, and stands in the artifact's card."""
        with step_by_step():
            after = self.measure(model)
        found = forgetting.record(
            self.kind, self.rows.source, len(self.rows), self.rows.sha256, self.before, after, self.metric, self.how
        )
        note(model.folder / "artifact", forgetting.sentence(found))
        say(title + forgetting.sentence(found))
        return found

    def under(self, model: Model | None, task: Any) -> Loaded:
        """A model under the output layer that its checkpoint brought: the run's own where it writes itself."""
        if model is None:
            assert self.fresh is not None
            return self.fresh
        model.technique.take_off_reader()
        added = model.heads.place(HEAD, task, lambda: opened(self.config, task, self.device))
        if added is not None:
            model.technique.join(added.backbone)
            if model.heads.columns is not None:  # the newest column, which what comes next would start from
                model.heads.columns.add_head(HEAD, len(model.heads.columns.values) - 1)
        loaded: Loaded = model.heads[HEAD]
        return loaded

    def score(self, loaded: Loaded, task: Any, rows: Rows, max_length: int) -> Scored:
        """Metrics and answers on rows."""
        encoded = encode(task, rows, loaded.tokenizer, max_length, title="tokenise retained")
        refuse_nothing(encoded, rows, max_length)
        return evaluate(
            loaded.model, task, rows.table, encoded, batch_size=self.config.eval_batch_size, device=self.device,
            pad_id=loaded.tokenizer.pad_token_id, title="retained",
        )  # fmt: skip

    def length(self, loaded: Loaded, wanted: int) -> int:
        """Tokens of a row, the same before and after: what the technique takes is left free from the start."""
        return pick_max_length(None, wanted, loaded, self.technique.extra_positions(loaded.backbone))


class Text(Yardstick):
    """A general text, or rows of a writing task, through the model's own output layer."""

    def __init__(self, run: Model, rows: Rows, fresh: Loaded, task: Any, kind: str) -> None:
        super().__init__(run, rows, fresh)
        self.task, self.kind, self.shown = task, kind, rows
        self.max_length = self.length(fresh, LENGTH if kind == "general text" else task.default_max_length)

    def measure(self, model: Model | None) -> dict[str, float]:
        """The task's metrics."""
        loaded = self.under(model, self.task)
        self.task.positions = self.max_length
        return self.score(loaded, self.task, self.shown, self.max_length).metrics


class Drift(Yardstick):
    """Representations of a general text, where there is no output layer to ask."""

    kind, metric = "representation", "cosine_distance"

    def __init__(self, run: Model, rows: Rows, fresh: Loaded, why: str) -> None:
        super().__init__(run, rows, fresh)
        self.max_length = self.length(fresh, LENGTH)
        self.states: Any = None
        self.how = (
            "mean of 1 - cosine between the mean-pooled last hidden states of a passage before and after, and linear CKA (Kornblith et al. "
            f"2019); it is not a loss: {why}"
        )

    def measure(self, model: Model | None) -> dict[str, float]:
        """Distance and CKA to the states that were seen first."""
        loaded = self.fresh if model is None else model.heads.first
        if model is not None:
            model.technique.take_off_reader()
        assert loaded is not None
        found = drift.states(
            loaded.backbone, loaded.tokenizer, list(self.rows.table["text"]), max_length=self.max_length,
            batch_size=self.config.eval_batch_size,
        )  # fmt: skip
        self.states = found if self.states is None else self.states
        return {"cosine_distance": drift.cosine_distance(self.states, found), "cka": drift.cka(self.states, found)}


class Skill(Yardstick):
    """Rows of a task through the head that learned it in an earlier run."""

    def __init__(self, run: Model, rows: Rows, head: str, task: Any) -> None:
        super().__init__(run, rows, None)
        self.head, self.kind, self.metric = head, task.name, task.primary
        self.how = f"{task.primary} of {task.name} through the head `{head}` of the run that this one continues"

    def measure(self, model: Model | None) -> dict[str, float]:
        """The task's metrics."""
        assert model is not None
        reading = model.readings[self.head]
        return self.score(model.heads[self.head], reading.task, self.rows, reading.max_length).metrics


class Asked(Yardstick):
    """Rows of a task that the language model is asked about in words, without any head of the task."""

    def __init__(self, run: Model, rows: Rows, fresh: Loaded, task: Any, language: Any) -> None:
        super().__init__(run, rows, fresh)
        self.task, self.language, self.kind, self.metric = task, language, task.name, task.primary
        self.how = f"{task.primary} of {task.name} when the language model is asked in words (zero-shot)"
        self.taken = self.technique.extra_positions(fresh.backbone)

    def measure(self, model: Model | None) -> dict[str, float]:
        """The task's metrics of what is answered."""
        from tunesmith.baselines._asking import ASK, Asker
        from tunesmith.data.splits import Roles

        asker = Asker(
            self.under(model, self.language), self.language, self.config.eval_batch_size, self.device, self.taken
        )
        options = configuration.options_of(self.config, "baseline", "zero-shot")
        values, loss = ASK[self.task.name](asker, options, self.task, Roles(self.rows, None, self.rows, {}))
        metric = self.task.metric()
        for value, row in zip(values, self.rows.table, strict=True):
            metric.update(value, self.task.truth(row))
        return {**metric.compute(), "loss": loss}


class _Plain:
    """A model without any head, for its hidden states."""

    reads = "tokens"
    owns_head = True

    def model_class(self, config: Any) -> str:
        return "AutoModel"

    def config_overrides(self) -> dict[str, Any]:
        return {}

    def bind(self, model: Any, tokenizer: Any, kind: str) -> None:
        pass


def begin(run: Model, start: Path | None) -> Yardstick | None:
    """What is to be kept, measured as it is before the run; None if nothing was named.

    Args:
        run: the run's model before its first stage; it is not touched.
        start: the artifact that the run continues, if it continues one.

    Raises:
        UserError: the model cannot do what is to be kept, or the rows cannot be used.
    """
    config = run.config
    wanted = config.retain
    if wanted is None:
        return None
    if is_new(config.model) and start is None:
        raise UserError(
            f"{config.model} starts from random weights and knows nothing that it could forget; leave out --retain."
        )
    before = reopen(config, run.folder, start) if start is not None else None
    found = _of_task(run, wanted, before) if wanted.task else _general(run, wanted)
    with step_by_step():
        found.before = found.measure(before)
    found.fresh = None
    if found.metric not in found.before:
        raise DataError(f"`{wanted.data}` gives no {found.metric}: its rows have no labels; retain rows with labels.")
    return found


def rows_of(config: RunConfig) -> Rows:
    """What is to be kept, as every run of this configuration reads it."""
    wanted = config.retain
    assert wanted is not None
    if wanted.task:
        task = _task(str(wanted.task), config.options.get(registry.resolve("task", str(wanted.task)).name, {}))
        rows = sources.read(wanted.data, wanted.columns, task.required, task.optional, task.synonyms, task.plain_text)
        return sources.subset(rows, wanted.rows, "retain")
    language = _task("language-modeling", {})
    rows = sources.read(wanted.data, wanted.columns, ("text",), (), language.synonyms, "lines")
    return passages(rows, wanted.rows or PASSAGES)


def _general(run: Model, wanted: RetainOptions) -> Yardstick:
    """A text under the model's own output layer; where the checkpoint brings none, its representations."""
    rows = rows_of(run.config)
    task = _language(run.source.path, run.config.trust_remote_code)
    if task is None:
        why = f"a {run.heads.model.config.model_type} model has no language-model head"
        return Drift(run, rows, opened(run.config, _Plain(), run.device), why)
    fresh = opened(run.config, task, run.device)
    if fresh.backbone.head_names or not can_share(run.heads.first, fresh):
        brings = (
            "brings no language-model head"
            if fresh.backbone.head_names
            else "has one that needs more than this task's half of the model"
        )
        return Drift(run, rows, opened(run.config, _Plain(), run.device), f"the checkpoint {brings}")
    found = Text(run, rows, fresh, task, "general text")
    if task.name == "instruction":
        found.metric, found.shown = "loss", _halves(rows)
        found.how = "nats a token of the second half of each passage, which the decoder continues when the encoder reads the first"
    elif task.objective == "masked":
        found.metric = "loss"
        found.how = "nats a masked token (15 %, the same tokens before and after) through the pretrained output layer"
    else:
        found.metric, found.how = "bits_per_byte", "bits a byte of the text through the pretrained output layer"
    return found


def _of_task(run: Model, wanted: RetainOptions, before: Model | None) -> Yardstick:
    """Rows of a task that the model can do already."""
    config = run.config
    task = _task(str(wanted.task), config.options.get(registry.resolve("task", str(wanted.task)).name, {}))
    rows = rows_of(config)
    for name, reading in reversed(list(before.readings.items() if before else ())):
        if reading.task.name != task.name:
            continue
        try:
            reading.task.check(rows, "retained")
        except DataError:
            continue
        return Skill(run, rows, name, reading.task)
    language = task if not task.owns_head else _language(run.source.path, config.trust_remote_code)
    fresh = (
        None
        if language is None or (language.name != "language-modeling" and task.owns_head)
        else opened(config, language, run.device)
    )
    if (
        fresh is None
        or fresh.backbone.head_names
        or not can_share(run.heads.first, fresh)
        or (task.owns_head and task.name not in ASKABLE)
    ):
        raise ModelError(
            f"`{config.model}` cannot do {task.name} before it has learned it: it has no head for it and cannot be asked in words. Continue a run "
            "that learned it (--continue-from), or retain a general text."
        )
    task.fit(rows)
    if task.owns_head:
        return Asked(run, rows, fresh, task, language)
    found = Text(run, rows, fresh, task, task.name)
    found.metric, found.how = task.primary, f"{task.primary} of {task.name} through the model's own output layer"
    return found


def opened(config: RunConfig, task: Any, device: Any) -> Loaded:
    """The pretrained model under a head."""
    source = locate(config.model)
    tokenizer = load_tokenizer(source, trust_remote_code=config.trust_remote_code)
    loaded = load_model(source, tokenizer, task, seed=config.seed, trust_remote_code=config.trust_remote_code)
    loaded.model.to(device)
    return loaded


def _task(name: str, options: dict[str, Any]) -> Any:
    cls = registry.load("task", name)
    return cls(cls.Options.model_validate(options))


def _language(path: str, trust: bool) -> Any:
    """The task that a general text is to a model; None if its family has no language-model head."""
    import transformers

    shape = transformers.AutoConfig.from_pretrained(path, trust_remote_code=trust)
    if getattr(shape, "is_encoder_decoder", False):
        return _task("instruction", {"template": "plain", "generate_rows": 0, "long_completion": "cut"})
    task = _task("language-modeling", {})
    try:
        task.model_class(shape)
    except ModelError:
        return None
    return task


def _halves(rows: Rows) -> Rows:
    """Passages cut in the middle, at a space: what is read, and what is to follow."""
    from datasets import Dataset

    pairs = []
    for text in rows.table["text"]:
        middle = text.find(" ", len(text) // 2)
        middle = middle if middle > 0 else len(text) // 2
        pairs.append({"prompt": text[:middle].strip() or text, "completion": text[middle:].strip() or text})
    return Rows(Dataset.from_list(pairs), rows.source, f"{rows.sha256}-halves", rows.numbers)
