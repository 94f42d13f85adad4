"""The routes, and what becomes of errors: every answer that is not a success is OpenAI's error object."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from tunesmith.errors import UserError
from tunesmith.evaluation import cost
from tunesmith.serve import openapi
from tunesmith.serve.answers import dumps
from tunesmith.serve.limits import LimitBody
from tunesmith.serve.metrics import CONTENT_TYPE, CountRequests
from tunesmith.serve.refusals import FAULT, Refused
from tunesmith.serve.security import Guard
from tunesmith.serve.service import Service, answer
from tunesmith.serve.streaming import Left

log = logging.getLogger("tunesmith.serve")


def build(service: Service, token: str | None = None) -> FastAPI:
    """The application.

    Args:
        service: what answers.
        token: what every request but /health must bring; None for no token.
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.engine.stop()

    # No pages of its own: their scripts would come from elsewhere.
    app = FastAPI(title="tunesmith", openapi_url=None, docs_url=None, redoc_url=None, lifespan=life)
    described = openapi.document(cost.versions()["tunesmith"], token is not None)
    _routes(app, service, described)
    _errors(app)
    app.add_middleware(LimitBody, limits=service.limits)
    app.add_middleware(Guard, token=token)
    app.add_middleware(CountRequests, metrics=service.engine.metrics)
    return app


def _routes(app: FastAPI, service: Service, described: dict[str, Any]) -> None:
    @app.get("/openapi.json")
    async def document() -> Response:
        return answer(described)

    @app.get("/health")
    async def health() -> Response:
        if not service.engine.alive:
            return Response(dumps({"status": "stopped"}), status_code=503, media_type="application/json")
        return answer({"status": "ok"})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.engine.metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    @app.get("/v1/models")
    async def models() -> Response:
        return answer(service.models())

    @app.get("/v1/models/{name}")
    async def model(name: str) -> Response:
        return answer(service.model(name))

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await service.chat(request)

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        return await service.complete(request)

    @app.post("/v1/embeddings")
    async def embed(request: Request) -> Response:
        return await service.embed(request)

    @app.post("/v1/predict")
    async def predict(request: Request) -> Response:
        return await service.predict(request)

    @app.post("/v1/load_lora_adapter")
    async def load(request: Request) -> Response:
        return await service.load(request)

    @app.post("/v1/unload_lora_adapter")
    async def unload(request: Request) -> Response:
        return await service.unload(request)


def _errors(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return _error(error)

    @app.exception_handler(UserError)
    async def wrong(request: Request, error: UserError) -> Response:
        return _error(Refused(400, str(error), code="invalid_value"))

    @app.exception_handler(HTTPException)
    async def known(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return _error(
                Refused(404, "there is nothing at this address; see the server's documentation for what there is.")
            )
        if error.status_code == 405:
            return _error(
                Refused(405, f"{request.method} is not what this address takes.", headers=error.headers or {})
            )
        return _error(Refused(error.status_code, str(error.detail)))

    @app.exception_handler(Left)
    async def left(request: Request, error: Left) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        log.error("a request failed", exc_info=error)
        return _error(Refused(500, FAULT, code="internal_error"))


def _error(refused: Refused) -> Response:
    return Response(dumps(refused.content), refused.status, refused.headers, media_type="application/json")
