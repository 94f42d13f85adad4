"""What each endpoint does, between the wire format and the engine."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tunesmith.artifacts.switch import check_name
from tunesmith.errors import UserError
from tunesmith.serve import jobs, prompts, wire
from tunesmith.serve.answers import Choice, Completion, Shape, dumps, usage_of
from tunesmith.serve.catalogue import Catalogue, Served, check_folder, inside
from tunesmith.serve.engine import Engine
from tunesmith.serve.limits import Limits
from tunesmith.serve.refusals import Refused
from tunesmith.serve.streaming import Events, Feed, failed, while_there
from tunesmith.serve.work import Busy, Gone, Stopped
from tunesmith.serve.writing import Request


def answer(content: Any) -> Response:
    """A JSON answer."""
    return Response(dumps(content), media_type="application/json")


@dataclass
class Service:
    """The server's parts.

    Attributes:
        engine: what works.
        catalogue: what can be asked.
        limits: how much.
        adapter_root: the folder that clients may load adapters from; None for none.
        trust_remote_code: whether an adapter may bring code along.
    """

    engine: Engine
    catalogue: Catalogue
    limits: Limits
    adapter_root: Path | None = None
    trust_remote_code: bool = False
    _loading: set[str] = field(default_factory=set)

    # ---- writing

    async def chat(self, request: HttpRequest) -> Response:
        """POST /v1/chat/completions."""
        body = wire.parse(wire.ChatBody, await request.body())
        served = self._writer(body.model)
        ids = await asyncio.to_thread(prompts.chat_ids, served, body.messages)
        shape = Shape(body.model, served.tokenizer, body.reported)
        return await self._write(request, body, served, [prompts.check_ids(served, ids, "messages")], body.limit, shape)

    async def complete(self, request: HttpRequest) -> Response:
        """POST /v1/completions."""
        body = wire.parse(wire.CompletionBody, await request.body())
        served = self._writer(body.model)
        found = [await asyncio.to_thread(prompts.text_ids, served, prompt) for prompt in body.prompts]
        shape = Completion(body.model, served.tokenizer, body.reported)
        return await self._write(request, body, served, found, body.limit, shape)

    def _writer(self, model: str) -> Served:
        served = self.catalogue.find(model)
        if not served.writes:
            why = f"its task is {served.task.name}" if served.task is not None else "it is a base that reads"
            raise Refused(
                400, f"`{served.id}` writes no text ({why}); ask /v1/predict or /v1/embeddings.", "model", "invalid_value"
            )  # fmt: skip
        return served

    async def _write(
        self, http: HttpRequest, body: wire.ChatBody | wire.CompletionBody, served: Served, found: Sequence[Sequence[int]],
        asked: int | None, shape: Shape,
    ) -> Response:  # fmt: skip
        most = self.limits.max_tokens
        ends = frozenset() if body.ignore_eos else served.chat_ends if isinstance(body, wire.ChatBody) else served.ends
        requests = [
            Request(
                served.adapter, ids, prompts.room_for(served, len(ids), asked, most), served.tokenizer, body.sampling(choice),
                body.stops, ends,
            )
            for ids in found
            for choice in range(body.n)
        ]  # fmt: skip
        if len(requests) > self.limits.max_batch + self.limits.max_queue:
            raise Refused(
                400,
                f"{len(requests)} texts are more than this server takes at once; send several requests.",
                "n",
                "invalid_value",
            )
        prompt_tokens = sum(map(len, found))
        feed = Feed(self.engine, requests)
        if body.stream:
            return Events(feed, shape, prompt_tokens, body.stream_options.include_usage)
        choices = [Choice() for _ in requests]

        async def collect() -> None:
            async for index, piece in feed.pieces():
                choices[index].add(piece)

        try:
            await while_there(http.receive, collect())
        finally:
            feed.close()
        return answer(shape.answer(choices, usage_of(prompt_tokens, sum(choice.written for choice in choices))))

    # ---- rows and vectors

    async def embed(self, request: HttpRequest) -> Response:
        """POST /v1/embeddings."""
        body = wire.parse(wire.EmbeddingBody, await request.body())
        served = self.catalogue.find(body.model)
        self._check_rows(len(body.inputs), "input")
        vectors, tokens = await self._job(request, jobs.embed(self.engine.bank, served, body.inputs), served.adapter)
        self.engine.metrics.count("rows_total", len(vectors), kind="embeddings")
        packed = [_pack(v) for v in vectors] if body.encoding_format == "base64" else vectors
        data = [{"object": "embedding", "index": i, "embedding": each} for i, each in enumerate(packed)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return answer({"object": "list", "data": data, "model": body.model, "usage": usage})

    async def predict(self, request: HttpRequest) -> Response:
        """POST /v1/predict."""
        body = wire.parse(wire.PredictBody, await request.body())
        served = self.catalogue.find(body.model)
        if served.adapter is None:
            raise Refused(
                400,
                f"`{served.id}` is a base model and was trained for no task; name an adapter.",
                "model",
                "invalid_value",
            )
        self._check_rows(len(body.rows), "rows")
        steps = jobs.predict(self.engine.bank, served, body.rows, body.head)
        rows = await self._job(request, steps, served.adapter)
        self.engine.metrics.count("rows_total", len(rows), kind="predictions")
        return answer({"object": "list", "model": body.model, "task": served.task.name, "data": rows})

    def _check_rows(self, count: int, param: str) -> None:
        if count > self.limits.max_rows:
            raise Refused(
                400,
                f"{count} rows are more than this server takes at once ({self.limits.max_rows}); send several requests.",
                param,
            )

    async def _job(self, request: HttpRequest, steps: Any, adapter: str | None, counted: bool = True) -> Any:
        """The result of a job, which is given up when the client leaves."""
        try:
            job = self.engine.run(steps, adapter=adapter, counted=counted)
        except (Busy, Stopped, Gone) as error:
            raise failed(error) from error
        try:
            return await while_there(request.receive, _result(job.future))
        finally:
            self.engine.drop_job(job)

    # ---- models

    def models(self) -> dict[str, Any]:
        """GET /v1/models."""
        return {"object": "list", "data": [self._card(served) for served in self.catalogue]}

    def model(self, name: str) -> dict[str, Any]:
        """GET /v1/models/NAME."""
        return self._card(self.catalogue.find(name))

    def _card(self, served: Served) -> dict[str, Any]:
        base = self.catalogue.base.id if served.adapter is not None else None
        return {
            "id": served.id, "object": "model", "created": served.created, "owned_by": "tunesmith", "root": served.id, "parent": base,
            "task": served.task.name if served.adapter is not None else None, "max_model_len": served.room,
        }  # fmt: skip

    async def load(self, request: HttpRequest) -> Response:
        """POST /v1/load_lora_adapter."""
        body = wire.parse(wire.LoadBody, await request.body())
        folder = inside(self.adapter_root, body.lora_path)
        name = check_name(body.lora_name)
        if name in self.catalogue or name in self._loading or name in self.engine.bank.names:
            raise Refused(
                400, f"`{name}` is loaded already (or is leaving); unload it first, or take another name.", "lora_name"
            )
        self._loading.add(name)
        try:
            check_folder(folder, self.trust_remote_code)
            job = self.engine.run(jobs.load(self.engine.bank, name, folder), counted=False)
            self.catalogue.add(await _result(job.future))  # to the end, even if the client leaves
        except UserError as error:
            raise Refused(
                400, _without_paths(str(error), folder, body.lora_path), "lora_path", "invalid_value"
            ) from error
        finally:
            self._loading.discard(name)
        return Response(f"Success: LoRA adapter '{name}' added successfully.", media_type="text/plain")

    async def unload(self, request: HttpRequest) -> Response:
        """POST /v1/unload_lora_adapter: no further request is taken, those that were are answered, then it goes."""
        body = wire.parse(wire.UnloadBody, await request.body())
        if self.adapter_root is None:
            inside(None, "")
        served = self.catalogue.withdraw(body.lora_name)
        await _result(self.engine.remove(str(served.adapter)))
        return Response(f"Success: LoRA adapter '{body.lora_name}' removed successfully.", media_type="text/plain")


async def _result(future: Future[Any]) -> Any:
    """What the engine's thread made of a job."""
    try:
        return await asyncio.wrap_future(future)
    except (UserError, Refused, asyncio.CancelledError):
        raise
    except Exception as error:
        raise failed(error) from error


def _without_paths(message: str, folder: Path, given: str) -> str:
    """A sentence that names a folder as the client did, not as the machine does."""
    return message.replace(str(folder), given)


def _pack(vector: Sequence[float]) -> str:
    """A vector as base64 of little-endian fp32, which is what OpenAI's client asks for."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
