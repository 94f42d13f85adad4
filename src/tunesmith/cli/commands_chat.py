"""chat."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith import trust
from tunesmith.cli import flags as f
from tunesmith.cli.commands_artifact import Folder, Head

if TYPE_CHECKING:
    from tunesmith.cli.chat import Voices

HELP = """Talk to an artifact: chat, instruction, or a plain language model that goes on with your text.

\b
Examples:
  tunesmith chat runs/chat/artifact
  tunesmith chat runs/chat/artifact --system "Answer in Vietnamese." --temperature 0
  tunesmith chat runs/formal/artifact --adapter playful=runs/playful/artifact      (then: /adapter playful)
  echo "Who are you?" | tunesmith chat runs/chat/artifact --seed 1 > answer.txt
Inside, /help lists the commands.
"""


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("chat", help=HELP)(chat)


def chat(
    artifact: Folder,
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=ARTIFACT", help="another artifact on the same base, for /adapter NAME; repeatable"),
    ] = None,
    head: Head = None,
    system: Annotated[str | None, typer.Option(help="system prompt (default: the one of training)")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="longest answer, in tokens")] = 256,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token every time")] = 0.7,
    top_p: Annotated[float, typer.Option(help="draw from the likeliest tokens of this probability together")] = 0.95,
    seed: Annotated[int, typer.Option(help="the same seed and lines give the same answers")] = 0,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    trust_remote_code: f.TrustRemoteCode = False,
    json: Annotated[bool, typer.Option("--json", help="print each answer as one JSON object")] = False,
    verbose: f.Verbose = 0,
    quiet: f.Quiet = False,
) -> None:
    """Talk to an artifact."""
    f.talk(verbose, quiet)
    trust.allow(trust_remote_code)
    from tunesmith.artifacts.writing import Sampling, Writer
    from tunesmith.cli.chat import Conversation, named_adapters, talk
    from tunesmith.console import quiet_libraries

    quiet_libraries()
    for stream, mistakes in ((sys.stdin, "surrogateescape"), (sys.stdout, "replace")):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=mistakes)
    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    voices, name = _voices(artifact, named_adapters(adapter or []), dtype, device)
    for each in voices.names[1:]:  # one that cannot talk is named now, not when it is asked
        Writer(voices.select(each))
    interactive = sys.stdin.isatty()
    conversation = Conversation(voices, name, sampling, system=system, interactive=interactive, as_json=json, head=head)
    info = conversation.writer.artifact.opened.info
    base = info.get("base_model", {}).get("name", "")
    talk(conversation, f"{name}: {info['task']}, {info['technique']} on {base}")


class _One:
    """A single artifact, whatever it is made of."""

    def __init__(self, name: str, opened: Any) -> None:
        self.names, self._opened = [name], opened

    def select(self, name: str) -> Any:
        from tunesmith.errors import UserError, unknown

        if name not in self.names:
            raise UserError(unknown("adapter", name, self.names))
        return self._opened


def _voices(artifact: str, others: dict[str, str], dtype: str, device: str) -> tuple[Voices, str]:
    """Whom one can talk to, and who answers first; a single artifact need not share its base."""
    from tunesmith.artifacts.store import read_info
    from tunesmith.artifacts.use import load

    name = _short(artifact)
    if not others:
        return _One(name, load(artifact, device=device, dtype=dtype)), name
    from tunesmith.artifacts.switch import AdapterBank

    while name in others:
        name = f"{name}-1"
    info = read_info(Path(artifact))
    base = info["base_model"]
    model = base["name"] if str(base["name"]).startswith("asset:") else base["path"]
    bank = AdapterBank(
        str(model), device=device, dtype=dtype, quantization=info.get("quantization", "none"),
        trust_remote_code=trust.allowed(),
    )  # fmt: skip
    for each, folder in {name: artifact, **others}.items():
        bank.add(each, folder)
    return bank, name


def _short(artifact: str) -> str:
    """What to call an artifact: its run's folder."""
    path = Path(artifact).absolute()
    found = path.parent.name if path.name == "artifact" else path.name
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in found).lstrip("._-")[:60] or "artifact"
