"""What the server takes and gives, as OpenAPI 3.1 (GET /openapi.json): for generated clients, and for tests that try what nobody thought of.

Bodies are the schemas of the classes that check them, so that the two cannot differ; answers are written down here, and a test holds real
ones against them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from tunesmith.serve import wire

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
PLACE = "#/components/schemas/{model}"
JSON, EVENTS, PLAIN = "application/json", "text/event-stream", "text/plain"


def _ref(name: str) -> Schema:
    return {"$ref": PLACE.format(model=name)}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(**fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _envelope(kind: str, choice: Schema) -> Schema:
    usage = _ref("Usage")
    return _object(id=TEXT, created=COUNT, model=TEXT, object={"const": kind}, choices=_list(choice), usage=usage)


OPEN: Schema = {"type": "object"}
FINISH: Schema = {"enum": ["stop", "length"]}
MESSAGE = _object(role={"const": "assistant"}, content=TEXT, refusal={"type": "null"})
ANSWERS: dict[str, Schema] = {
    "Error": _object(error=_object(message=TEXT, type=TEXT, param=_maybe(TEXT), code=_maybe(TEXT))),
    "Health": _object(status=TEXT),
    "Usage": _object(prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT),
    "Model": _object(
        id=TEXT, object={"const": "model"}, created=COUNT, owned_by=TEXT, root=TEXT, parent=_maybe(TEXT), task=_maybe(TEXT),
        max_model_len=_maybe(COUNT),
    ),
    "Models": _object(object={"const": "list"}, data=_list(_ref("Model"))),
    "ChatCompletion": _envelope(
        "chat.completion", _object(index=COUNT, message=MESSAGE, logprobs=_maybe(OPEN), finish_reason=FINISH)
    ),
    "Completion": _envelope("text_completion", _object(index=COUNT, text=TEXT, logprobs=_maybe(OPEN), finish_reason=FINISH)),
    "Embeddings": _object(
        object={"const": "list"}, model=TEXT, usage=_object(prompt_tokens=COUNT, total_tokens=COUNT),
        data=_list(_object(object={"const": "embedding"}, index=COUNT, embedding={"anyOf": [_list({"type": "number"}), TEXT]})),
    ),
    "Predictions": _object(object={"const": "list"}, model=TEXT, task=TEXT, data=_list(OPEN)),
}  # fmt: skip
BODIES = (wire.ChatBody, wire.CompletionBody, wire.EmbeddingBody, wire.PredictBody, wire.LoadBody, wire.UnloadBody)


def _operation(
    summary: str, answers: Mapping[str, Schema], body: type[wire.Body] | None = None, **more: Any
) -> dict[str, Any]:
    """One address and method; whatever is not a success is the error object."""
    good = {"description": "the answer", "content": {kind: {"schema": schema} for kind, schema in answers.items()}}
    refused = {"description": "what is wrong, in a sentence", "content": {JSON: {"schema": _ref("Error")}}}
    found: dict[str, Any] = {"summary": summary, "responses": {"200": good, "4XX": refused, "503": refused}, **more}
    if body is not None:
        content = {JSON: {"schema": _ref(body.__name__)}}
        found["requestBody"] = {"required": True, "content": content}
    return found


NAME = {"name": "name", "in": "path", "required": True, "schema": TEXT}
WRITTEN = {EVENTS: TEXT}
PATHS: dict[str, dict[str, Any]] = {
    "/health": {
        "get": _operation("Whether the server works", {JSON: _ref("Health")}, security=[])
        | {"responses": {code: {"description": text, "content": {JSON: {"schema": _ref("Health")}}} for code, text in (("200", "it does"), ("503", "it has stopped"))}}
    },
    "/metrics": {"get": _operation("Counters in Prometheus's format", {PLAIN: TEXT})},
    "/v1/models": {"get": _operation("What can be asked", {JSON: _ref("Models")})},
    "/v1/models/{name}": {"get": _operation("One of them", {JSON: _ref("Model")}, parameters=[NAME])},
    "/v1/chat/completions": {"post": _operation("Answer a conversation", {JSON: _ref("ChatCompletion"), **WRITTEN}, wire.ChatBody)},
    "/v1/completions": {"post": _operation("Go on with a text", {JSON: _ref("Completion"), **WRITTEN}, wire.CompletionBody)},
    "/v1/embeddings": {"post": _operation("Vectors of texts", {JSON: _ref("Embeddings")}, wire.EmbeddingBody)},
    "/v1/predict": {"post": _operation("Predictions for rows of the adapter's task", {JSON: _ref("Predictions")}, wire.PredictBody)},
    "/v1/load_lora_adapter": {"post": _operation("Load an adapter", {PLAIN: TEXT}, wire.LoadBody)},
    "/v1/unload_lora_adapter": {"post": _operation("Unload an adapter", {PLAIN: TEXT}, wire.UnloadBody)},
}  # fmt: skip


def document(version: str, token: bool) -> dict[str, Any]:
    """The whole document.

    Args:
        version: of the server.
        token: whether requests must bring one.
    """
    _, bodies = models_json_schema([(body, "validation") for body in BODIES], ref_template=PLACE)
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "tunesmith", "version": version, "summary": "One base model and its adapters"},
        "paths": PATHS,
        "components": {"schemas": {**bodies["$defs"], **ANSWERS}},
    }
    if token:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
    return found
