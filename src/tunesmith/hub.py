"""The hub, asked only where it can be: without a network its client would try for a minute before it says so."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

from tunesmith.console import warn

PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_ours = False  # whether this process went offline by itself


def look() -> bool:
    """Whether the hub's name is known here; if not, its client is told to be content with its cache until a later look finds it.

    Behind a proxy the proxy finds the name, and who set `HF_HUB_OFFLINE` has decided already: nothing is looked for then.
    """
    global _ours
    import datasets
    from huggingface_hub import constants

    if (constants.HF_HUB_OFFLINE and not _ours) or any(os.environ.get(name) for name in PROXIES):
        return not constants.HF_HUB_OFFLINE
    host = urlsplit(constants.ENDPOINT)
    try:
        socket.getaddrinfo(host.hostname, host.port or 443)
        offline = False
    except OSError:
        offline = True
    if offline and not _ours:
        warn(f"{host.hostname} cannot be reached; only what was fetched from it earlier is used.")
    _ours = offline
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = offline
    return not offline
