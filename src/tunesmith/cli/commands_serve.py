"""serve."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli import flags as f
from tunesmith.errors import UserError

SERVE_HELP = """Serve a base model and adapters over the OpenAI wire format.

\b
Examples:
  tunesmith serve --model asset:smollm2-135m --adapter polite=runs/polite/artifact --adapter short=runs/short/artifact
  curl http://127.0.0.1:8000/v1/models
Clients choose the adapter by `model`. Without a token only this machine can ask.
"""


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("serve", help=SERVE_HELP)(serve)


def serve(
    model: Annotated[str, typer.Option(help="the base: folder, GGUF file, hub id, asset:NAME")],
    adapter: Annotated[list[str] | None, typer.Option(metavar="NAME=ARTIFACT", help="an adapter by name; repeatable")] = None,
    host: Annotated[str, typer.Option(help="address to listen on; other than loopback needs a token")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0 for any that is free")] = 8000,
    token: Annotated[str | None, typer.Option(envvar="TUNESMITH_TOKEN", show_envvar=True, help="what clients must bring as their API key; set it in the environment")] = None,
    max_body: Annotated[int, typer.Option(min=1024, help="bytes of a request")] = 1 << 20,
    max_tokens: Annotated[int, typer.Option(min=1, help="tokens of an answer")] = 1024,
    max_queue: Annotated[int, typer.Option(min=0, help="requests that wait beside those that run; beyond: 429")] = 64,
    max_batch: Annotated[int, typer.Option(min=1, help="texts that are written at the same time")] = 16,
    max_rows: Annotated[int, typer.Option(min=1, help="rows or texts in one request for predictions or embeddings")] = 256,
    drain: Annotated[int, typer.Option(min=0, help="seconds that running requests have after SIGTERM")] = 60,
    allow_adapter_root: Annotated[Path | None, typer.Option(metavar="DIR", help="let clients load adapters from this folder (off by default)")] = None,
    quantization: f.Quantization = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    trust_remote_code: f.TrustRemoteCode = False,
    verbose: f.Verbose = 0,
    quiet: f.Quiet = False,
) -> None:  # fmt: skip
    """Serve until Ctrl-C or SIGTERM."""
    f.talk(verbose, quiet)
    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise UserError(f"serving needs {' and '.join(missing)}; install with: pip install 'tunesmith[serve]'")
    if token is None and "TUNESMITH_TOKEN" in os.environ:
        token = ""  # set and empty (a secret that is missing): not the same as not set, and refused
    adapters = named(adapter or [])
    if dtype not in DTYPES:
        raise UserError(f"dtype `{dtype}` is not known; use one of {', '.join(DTYPES)}.")
    from tunesmith.console import quiet_libraries
    from tunesmith.serve.limits import Limits
    from tunesmith.serve.server import Options
    from tunesmith.serve.server import serve as run

    quiet_libraries()
    run(
        Options(
            model=model, adapters=adapters, host=host, port=port, token=token,
            limits=Limits(max_body, max_tokens, max_queue, max_batch, max_rows), device=device, dtype=dtype,
            quantization=quantization or "none", adapter_root=allow_adapter_root, trust_remote_code=trust_remote_code, drain=drain,
        )
    )  # fmt: skip


DTYPES = ("float32", "bfloat16")


def named(words: list[str]) -> dict[str, str]:
    """Adapters of --adapter NAME=ARTIFACT.

    Raises:
        UserError: one has another form, or a name stands twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or not name or not folder:
            raise UserError(f"--adapter takes NAME=ARTIFACT, such as polite=runs/polite/artifact; `{word}` is none.")
        if name in found:
            raise UserError(f"--adapter names `{name}` twice; give each adapter a name of its own.")
        found[name] = folder
    return found
