r"""Progressive networks: every stage gets a column of its own, earlier ones are frozen and help through lateral connections.

(Rusu et al. 2016; `models.columns` has the equation.) A column is what the technique trains: the whole backbone with `full`, the
low-rank matrices with `lora`. Every stage has its own head. Forgetting is exactly zero; the price is memory for every column and a
forward pass of every earlier one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import nn

from tunesmith.config import Options as BaseOptions
from tunesmith.continual._base import Strategy
from tunesmith.errors import TechniqueError
from tunesmith.models.columns import FILE, Columns
from tunesmith.stream import Stage


class Options(BaseOptions):
    """Options of progressive networks."""

    reduction: int = Field(4, ge=1, description="width of the model / width of a lateral connection")
    laterals: bool = Field(True, description="let earlier columns help; off: columns that know nothing of each other")


class Progressive(Strategy):
    """A column a stage."""

    Options = Options

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.made: nn.ModuleList | None = None
        self.columns: Columns | None = None

    def plan_stream(self, stages: Sequence[Stage]) -> list[Stage]:
        """Every task reads through a head of its own: a shared one would change what earlier stages answer."""
        return [
            stage.model_copy(update={"tasks": [task.model_copy(update={"head": "own"}) for task in stage.tasks]})
            for stage in stages
        ]

    def objection(self, task: Any, kind: str) -> str | None:
        """A column has no place in the cache of a model that writes."""
        if task.owns_head:
            return None
        return f"progressive keeps no cache for its columns, so {task.name}, which writes, cannot use it; take another strategy."

    def before_model(self, heads: Any, stage_number: int, parts: Mapping[str, Any]) -> None:
        """Begin a column: the parameters go back to where the first one began.

        Raises:
            TechniqueError: the stage cannot have a column.
        """
        for part in parts.values():
            reason = self.objection(part.task, heads.backbone.kind)
            if reason is not None:
                raise TechniqueError(reason)
        if heads.columns is None:
            heads.columns = Columns(heads)
        self.columns = columns = heads.columns
        width = max(1, heads.backbone.hidden_size // self.options.reduction)
        self.made = columns.begin(stage_number, width)
        for part in parts.values():
            columns.add_head(part.head, stage_number)

    def after_stage(self, session: Any) -> None:
        """Freeze the column."""
        session.heads.columns.finish(session.masters.tensors)

    def held(self) -> Any:
        """Every column, and what leads from one to the next."""
        return [self.columns.values, self.columns.start, self.columns.laterals] if self.columns is not None else []

    def files(self, folder: Path) -> list[Path]:
        """The columns lie with the artifact."""
        return [folder / "artifact" / FILE]

    def modules(self) -> Mapping[str, nn.Parameter]:
        """The lateral connections into the new column."""
        return dict(self.made.named_parameters()) if self.made is not None and self.options.laterals else {}
