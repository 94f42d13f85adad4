"""The progress of a fit, for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from tunesmith.console import progress
from tunesmith.training.session import Session


class Steps(Protocol):
    """What is needed of the state of a fit (`loop.Fit`)."""

    steps: int


@contextmanager
def bar(session: Session) -> Iterator[Callable[[Steps, dict[str, Any] | None], None]]:
    """Progress with loss, rate, speed, memory and time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[info]}"),
        TimeRemainingColumn(),
    )
    with progress(*columns) as shown_bar:
        task = shown_bar.add_task(session.title or session.technique.name, total=session.total_steps, info="")

        def show(state: Steps, line: dict[str, Any] | None) -> None:
            info = {}
            if line:
                info["info"] = (
                    f"loss {line['loss']:.4f}  lr {line['learning_rate']:.2e}  {line['tokens_per_second']:,.0f} tok/s  "
                    f"{line['peak_memory_bytes'] / 2**30:.2f} GiB"
                )
            shown_bar.update(task, completed=state.steps, **info)  # type: ignore[arg-type]

        yield show
