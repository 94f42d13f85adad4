"""From the engine's thread to a client, who may leave at any moment, which frees what was working for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from starlette.responses import Response

from tunesmith.serve import answers
from tunesmith.serve.engine import Engine
from tunesmith.serve.refusals import FAULT, Refused, busy
from tunesmith.serve.work import Busy, Gone, Stopped
from tunesmith.serve.writing import Piece, Request

log = logging.getLogger("tunesmith.serve")
Result = TypeVar("Result")


class Left(Exception):
    """The client is gone; nobody reads an answer."""


class Feed:
    """The pieces of several requests, which one client waits for.

    Raises:
        Refused: the queue is full.
    """

    def __init__(self, engine: Engine, requests: Sequence[Request]) -> None:
        self.engine, self.count = engine, len(requests)
        self.queue: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def deliver(index: int) -> Callable[[Piece], None]:
            def put(piece: Piece) -> None:
                loop.call_soon_threadsafe(self.queue.put_nowait, (index, piece))

            return put

        try:
            self.tickets = engine.submit([(request, deliver(i)) for i, request in enumerate(requests)])
        except (Busy, Stopped, Gone) as error:
            raise failed(error) from error

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Pieces as they come, with the number of their request.

        Raises:
            Refused: the model failed, or the server stopped.
        """
        open_ = self.count
        while open_:
            index, piece = await self.queue.get()
            if piece.error is not None:
                raise failed(piece.error)
            open_ -= piece.last
            yield index, piece

    def close(self) -> None:
        """Let go of what is not done."""
        self.engine.cancel(self.tickets)


def failed(error: BaseException) -> Refused:
    """What a client is told of a failure on the engine's thread."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, Busy):
        return busy(error.seconds)
    if isinstance(error, Gone):
        return Refused(404, str(error), "model", "model_not_found")
    if isinstance(error, Stopped):
        return Refused(503, str(error), code="stopping")
    return Refused(500, FAULT, code="internal_error")


async def while_there(receive: Callable[[], Awaitable[Any]], work: Awaitable[Result]) -> Result:
    """The result of some work, given up when the client leaves.

    Raises:
        Left: the client did.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Left
    finally:
        for each in (task, watch):
            each.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await each


async def _left(receive: Callable[[], Awaitable[Any]]) -> None:
    """Returns when the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Events(Response):
    """Server-sent events of a feed.

    Args:
        feed: what is written.
        shape: how it looks.
        prompt_tokens: of all prompts.
        include_usage: whether a last event says what it cost.
    """

    media_type = "text/event-stream"

    def __init__(self, feed: Feed, shape: answers.Shape, prompt_tokens: int, include_usage: bool) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.feed, self.shape, self.prompt_tokens, self.include_usage = feed, shape, prompt_tokens, include_usage

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        try:
            await while_there(receive, self._answer(send))
        except Left:
            pass
        finally:
            self.feed.close()

    async def _answer(self, send: Any) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for part in self._events():
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except Refused as refused:
            await send({"type": "http.response.body", "body": answers.event(refused.content), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncIterator[bytes]:
        characters, written = [0] * self.feed.count, [0] * self.feed.count
        for index in range(self.feed.count):
            opening = self.shape.opening(index)
            if opening is not None:
                yield answers.event(opening)
        async for index, piece in self.feed.pieces():
            yield answers.event(self.shape.event(index, piece, characters[index]))
            characters[index] += len(piece.text)
            written[index] = piece.written
        if self.include_usage:
            yield answers.event(self.shape.usage(answers.usage_of(self.prompt_tokens, sum(written))))
        yield answers.DONE
