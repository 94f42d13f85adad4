"""From options to a running server, and from a signal to a clean end: what was accepted is answered first."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from tunesmith.artifacts.switch import AdapterBank, check_name
from tunesmith.console import say, set_verbosity, verbosity
from tunesmith.errors import UserError
from tunesmith.serve.app import build
from tunesmith.serve.catalogue import Catalogue, base_name, check_folder, describe
from tunesmith.serve.engine import Engine
from tunesmith.serve.limits import Limits
from tunesmith.serve.security import check_token
from tunesmith.serve.service import Service

CONNECTIONS = 1000  # beyond these uvicorn answers 503 by itself


@dataclass(frozen=True)
class Options:
    """What a server is started with.

    Attributes:
        model: the base: folder, GGUF file, hub id or asset:NAME.
        adapters: folders by the name that clients use.
        host: address to listen on.
        port: 0 for any that is free.
        token: what clients must bring.
        limits: how much they may ask for.
        device: auto, cpu, cuda, mps.
        dtype: of the weights.
        quantization: of the base.
        adapter_root: the folder that clients may load adapters from.
        trust_remote_code: run code that the model folder brings along.
        drain: seconds that running requests have after a signal.
    """

    model: str
    adapters: dict[str, str] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    limits: Limits = field(default_factory=Limits)
    device: str = "auto"
    dtype: str = "float32"
    quantization: str = "none"
    adapter_root: Path | None = None
    trust_remote_code: bool = False
    drain: int = 60


def open_service(options: Options) -> Service:
    """Load the base and its adapters, and start the engine.

    Raises:
        UserError: one of them cannot be used.
    """
    base = base_name(options.model)
    for name, folder in options.adapters.items():
        check_name(name)
        if name in (base, options.model):
            raise UserError(f"`{name}` is what clients call the base model; give the adapter another name.")
        check_folder(Path(folder), options.trust_remote_code)
    root = options.adapter_root
    if root is not None and not root.is_dir():
        raise UserError(
            f"--allow-adapter-root `{root}` is no folder; give the folder that adapters may be loaded from."
        )
    bank: Any = AdapterBank(
        options.model, device=options.device, dtype=options.dtype, quantization=options.quantization,
        trust_remote_code=options.trust_remote_code,
    )  # fmt: skip
    catalogue = Catalogue(describe(bank, None, base), (options.model,))
    for name, folder in options.adapters.items():
        bank.add(name, folder)
        catalogue.add(describe(bank, name, name))
    limits = options.limits
    engine = Engine(bank, slots=limits.max_batch, max_queue=limits.max_queue)
    engine.metrics.gauge(
        "adapter_bytes", lambda: {(("adapter", n),): float(bank.bytes_of(n)) for n in list(bank.names)}
    )
    return Service(engine.start(), catalogue, limits, root, options.trust_remote_code)


def listen(host: str, port: int) -> socket.socket:
    """The socket, before anything is loaded: a port that is taken should not cost a minute.

    Raises:
        UserError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let two servers have one port
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
    except (OSError, OverflowError) as error:
        found.close()
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen on {host}, port {port}: {reason}; choose another --port or --host.") from error
    return found


class Server(uvicorn.Server):
    """Ends when it is told to: first what was accepted is answered, a second signal ends at once."""

    said = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say where it is, once it is there."""
        await super().startup(sockets)
        if self.started:
            say(self.said)
            set_verbosity(-1)  # no progress bars of predictions from here on

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came; it is not raised again afterwards, so that a clean end has exit code 0."""
        self.force_exit = self.force_exit or self.should_exit
        self.should_exit = True


def make_server(service: Service, options: Options) -> Server:
    """The HTTP server around a service."""
    detail = verbosity() > 0
    config = uvicorn.Config(
        build(service, options.token), log_level="info" if detail else "warning", access_log=detail, server_header=False,
        limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=options.drain, lifespan="on", ws="none",
    )  # fmt: skip
    return Server(config)


def serve(options: Options) -> None:
    """Serve until a signal ends it.

    Raises:
        UserError: an option, the base or an adapter cannot be used.
    """
    check_token(options.host, options.token)
    place = listen(options.host, options.port)
    try:
        service = open_service(options)
        server = make_server(service, options)
        host = f"[{options.host}]" if ":" in options.host else options.host
        names = ", ".join(served.id for served in service.catalogue)
        server.said = f"Serving {names} on http://{host}:{place.getsockname()[1]} (Ctrl-C ends)."
        level = verbosity()
        try:
            server.run(sockets=[place])
        finally:
            set_verbosity(level)
            service.engine.stop(timeout=1.0)
    finally:
        place.close()
