"""Who may ask: the token, and what a browser could be talked into.

Without a token the server listens on the loopback address alone, and there the danger is a web page that the user happens to visit.
It cannot send JSON without asking first, which nobody answers (no CORS); and a name that it points at 127.0.0.1 (DNS rebinding) stands
in the Host header, which is checked.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import MutableMapping
from typing import Any

from tunesmith.errors import UserError
from tunesmith.serve.limits import refuse
from tunesmith.serve.refusals import Refused

OPEN = frozenset(("/health",))
"""What is answered without a token."""
SHORTEST = 16  # characters of a token that the world may try


def is_loopback(host: str) -> bool:
    """Whether an address or name means this machine."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_token(host: str, token: str | None) -> None:
    """What must be so before a server opens its port.

    Raises:
        UserError: other machines could reach it without a token, or with one that can be guessed.
    """
    if token is not None and (
        not token or not token.isascii() or any(c.isspace() or not c.isprintable() for c in token)
    ):
        raise UserError("the token is empty or holds blanks or letters beyond ASCII; use letters, digits and dashes.")
    if is_loopback(host):
        return
    if token is None:
        raise UserError(
            f"other machines can reach `{host}`, so a token is needed: set TUNESMITH_TOKEN (or --token), or leave --host at 127.0.0.1."
        )
    if len(token) < SHORTEST:
        raise UserError(
            f"other machines can reach `{host}`, and the token has {len(token)} characters; use {SHORTEST} or more, for example the "
            'output of: python -c "import secrets; print(secrets.token_urlsafe(32))".'
        )


class Guard:
    """Middleware that lets requests through which bring the token, or none where none is set."""

    def __init__(self, app: Any, token: str | None) -> None:
        self.app = app
        self.digest = None if token is None else hashlib.sha256(token.encode()).digest()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http":
            refused = self._why_not(scope)
            if refused is not None:
                await refuse(refused, send)
                return
        elif scope["type"] != "lifespan":
            return  # no web sockets here
        await self.app(scope, receive, send)

    def _why_not(self, scope: MutableMapping[str, Any]) -> Refused | None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        if scope["path"] in OPEN:
            return None
        if self.digest is not None:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            # Both are hashed to the same length, and compared in a time that does not depend on where they differ.
            right = hmac.compare_digest(hashlib.sha256(given.strip()).digest(), self.digest)
            if scheme.lower() != b"bearer" or not right:
                return Refused(
                    401, "the token is missing or wrong; send the header `Authorization: Bearer TOKEN`.", code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
        elif not is_loopback(_name(headers.get(b"host", b"").decode("latin-1"))):
            return Refused(
                403, "the Host header is not this machine's; ask by 127.0.0.1 or localhost.", code="wrong_host"
            )
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if scope["method"] == "POST" and kind != b"application/json":
            return Refused(400, "the Content-Type is not application/json; send JSON.", code="wrong_content_type")
        return None


def _name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.rpartition(":")[0] if host.count(":") == 1 else host
