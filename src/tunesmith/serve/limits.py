"""How much of everything a client may ask for, and the middleware that measures bodies while they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from tunesmith.serve.answers import dumps
from tunesmith.serve.refusals import Refused

Scope = MutableMapping[str, Any]


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how many may be there.

    Attributes:
        max_body: bytes of a request's body.
        max_tokens: tokens that a text may have.
        max_queue: requests that may wait beside those that run.
        max_batch: texts that are written at the same time.
        max_rows: rows or texts in one request for predictions or embeddings.
        body_seconds: how long a body may take to arrive.
    """

    max_body: int = 1 << 20
    max_tokens: int = 1024
    max_queue: int = 64
    max_batch: int = 16
    max_rows: int = 256
    body_seconds: float = 30.0


class LimitBody:
    """Refuses bodies that are too large, by what they announce and by what arrives, and those that never end."""

    def __init__(self, app: Any, limits: Limits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not announced.isdigit() or int(announced) > self.limits.max_body:
            await refuse(self._too_large(), send)
            return
        arrived, complete = 0, False

        async def measured() -> Any:
            nonlocal arrived, complete
            if complete:  # what comes now is news of the client's leaving
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self.limits.body_seconds)
            except TimeoutError as error:
                raise Refused(408, "the body did not arrive in time; send it again.", headers=CLOSE) from error
            if message["type"] == "http.request":
                arrived += len(message.get("body", b""))
                complete = not message.get("more_body", False)
                if arrived > self.limits.max_body:
                    raise self._too_large()
            return message

        await self.app(scope, measured, send)

    def _too_large(self) -> Refused:
        text = f"the body has more than {self.limits.max_body} bytes; send less, or raise the server's --max-body."
        return Refused(413, text, code="body_too_large", headers=CLOSE)


CLOSE = {"Connection": "close"}  # the rest of the body is not read


async def refuse(refused: Refused, send: Any) -> None:
    """Answer with a refusal, from outside the application."""
    body = dumps(refused.content)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in refused.headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
