"""The base of every option set, and the one that says what a run must not forget."""

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
