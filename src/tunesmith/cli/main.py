"""`tunesmith`: one file per command, imported when the command runs, so that `--help` is instant."""

from __future__ import annotations

import signal
import sys
import time
import traceback
from contextlib import suppress
from typing import Any

import typer
from typer.core import TyperGroup

from tunesmith import __version__, launch
from tunesmith.cli.threads import spin_briefly_beside_others
from tunesmith.errors import Interrupted, TunesmithError, UserError, interrupt

SEVERAL = ("train", "resume")
"""Commands that a launcher may start in several processes."""
PATIENCE = 3.0


class Group(TyperGroup):
    """Commands in the order of a day's work."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order they were added."""
        return list(self.commands)


app = typer.Typer(
    name="tunesmith",
    cls=Group,
    help="Every fine-tuning technique for pretrained language models, with one honest measurement.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"tunesmith {__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Every fine-tuning technique for pretrained language models, with one honest measurement.

    Start with `tunesmith list techniques`, `tunesmith init`, or: tunesmith train --train rows.csv --model asset:minilm
    """


def register() -> None:
    """Add the commands; each module imports nothing heavy at its top."""
    from tunesmith.cli import (
        commands_adapter,
        commands_artifact,
        commands_chat,
        commands_doctor,
        commands_look,
        commands_plan,
        commands_serve,
        commands_train,
    )

    commands_train.add(app)
    commands_plan.add(app)
    commands_doctor.add(app)
    commands_artifact.add(app)
    commands_chat.add(app)
    commands_adapter.add(app)
    commands_serve.add(app)
    commands_look.add(app)


def main(args: list[str] | None = None) -> None:
    """Entry point: runs a command and turns errors into one sentence and an exit code."""
    signal.signal(signal.SIGTERM, interrupt)
    spin_briefly_beside_others()
    register()
    sys.exit(run(args))


def run(args: list[str] | None = None) -> int:
    """Run a command line in this process and return its exit code (0, 1, 2 or 130)."""
    if not app.registered_commands:
        register()
    command = typer.main.get_command(app)
    try:
        _refuse_several(sys.argv[1:] if args is None else args)
        code = command.main(args=args, prog_name="tunesmith", standalone_mode=False)
    except TunesmithError as error:
        _say("interrupted" if error.exit_code == 130 else "error", str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _say("interrupted", "stopped before anything was saved.")
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        return _explain(error)
    if code == Interrupted.exit_code:  # typer makes an exit of Ctrl-C
        _say("interrupted", "stopped before anything was saved.")
    return code if isinstance(code, int) else 0  # what `raise typer.Exit(2)` comes back as


def _explain(error: Exception) -> int:
    """Exit code of what typer raised, or of a failure of ours."""
    # typer brings its own copy of click in some versions, so its exceptions are known by name.
    kinds = {cls.__name__ for cls in type(error).__mro__}
    if "Exit" in kinds:
        return int(getattr(error, "exit_code", 0))
    if "Abort" in kinds:
        _say("interrupted", "stopped before anything was saved.")
        return 130
    if "NoArgsIsHelpError" in kinds:
        error.show()  # type: ignore[attr-defined]
        return 2
    if "ClickException" in kinds:
        context = getattr(error, "ctx", None)
        where = f"; see `{context.command_path} --help`" if context is not None else ""
        _say("error", f"{error.format_message().strip().rstrip('.')}{where}.")  # type: ignore[attr-defined]
        return 2
    if "-v" in sys.argv or "--verbose" in sys.argv:
        from tunesmith.private import hide

        print(hide(traceback.format_exc()), file=sys.stderr, end="")
    frame = traceback.extract_tb(error.__traceback__)[-1]
    _say(
        "error",
        f"this is our fault: {type(error).__name__}: {error} ({frame.filename.rsplit('/', 1)[-1]}, line {frame.lineno}); "
        "run again with -v for the details and report them.",
    )
    return 1


def _refuse_several(args: list[str]) -> None:
    """Of all commands only a run is made by several processes; the others would all do the same work and write over each other."""
    place = launch.launched()
    name = next((arg for arg in args if not arg.startswith("-")), None)
    if place is not None and place.size > 1 and name is not None and name not in SEVERAL:
        raise UserError(
            f"`tunesmith {name}` works in one process; start it without a launcher ({' and '.join(SEVERAL)} take several)."
        )


def _say(kind: str, message: str) -> None:
    """For people; of several processes one speaks, and the others give it the time before a launcher ends them all."""
    from tunesmith.console import visible

    if launch.follows():
        with suppress(KeyboardInterrupt):
            time.sleep(PATIENCE)
        return
    print(f"{kind}: {visible(message)}", file=sys.stderr)
