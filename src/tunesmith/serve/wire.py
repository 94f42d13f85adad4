"""The requests of the OpenAI wire format, checked before anything is queued.

A field that would change the answer and is not supported is refused, and so is one that nobody knows; one that has no bearing on the
answer (`user`, `metadata`) is taken and ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from tunesmith.errors import nearest
from tunesmith.serve.refusals import Refused
from tunesmith.serve.sampling import Sampling

IGNORED = frozenset(
    ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
)
"""Fields that say nothing about the answer."""
NEUTRAL: dict[str, Any] = {
    "echo": False, "best_of": 1, "response_format": {"type": "text"}, "tool_choice": "none", "modalities": ["text"],
}  # fmt: skip
"""Fields that are not supported, at the value that asks for nothing."""
Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Ids = Annotated[list[int], Field(min_length=1)]


class Body(BaseModel):
    """A JSON object whose fields are known."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given

        def asks_nothing(name: str, value: Any) -> bool:
            if name in cls.model_fields:
                return value is None
            return name in IGNORED or value in (None, [], {}) or (name in NEUTRAL and value == NEUTRAL[name])

        return {name: value for name, value in given.items() if not asks_nothing(name, value)}


class StreamOptions(Body):
    """Options of streaming."""

    include_usage: bool = False
    include_obfuscation: bool = False  # this server pads nothing, so there is nothing to turn off


class Writing(Body):
    """What both kinds of writing share."""

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    n: int = Field(1, ge=1, le=64)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] = []
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    ignore_eos: bool = False
    """Write on behind the end token (not OpenAI's; for measuring)."""

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def reported(self) -> int | None:
        """Alternatives to report beside each token; None for no log-probabilities."""
        raise NotImplementedError

    def sampling(self, choice: int) -> Sampling:
        """How the tokens of a choice are chosen; each has a seed of its own."""
        return Sampling(
            temperature=self.temperature, top_p=self.top_p, seed=None if self.seed is None else self.seed + choice,
            presence_penalty=self.presence_penalty, frequency_penalty=self.frequency_penalty, logprobs=self.reported,
        )  # fmt: skip


class ChatBody(Writing):
    """POST /v1/chat/completions."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @model_validator(mode="after")
    def _together(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    @property
    def limit(self) -> int | None:
        """Most tokens that are asked for."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def reported(self) -> int | None:
        """Alternatives to report beside each token."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionBody(Writing):
    """POST /v1/completions."""

    DEFAULT: ClassVar[int] = 16
    prompt: str | Ids | Annotated[list[str] | list[Ids], Field(min_length=1, max_length=64)]
    logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def limit(self) -> int:
        """Most tokens that are asked for."""
        return self.max_tokens if self.max_tokens is not None else self.DEFAULT

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """One or several prompts, each text or ids."""
        return _several(self.prompt)

    @property
    def reported(self) -> int | None:
        """Alternatives to report beside each token."""
        return self.logprobs


class EmbeddingBody(Body):
    """POST /v1/embeddings."""

    model: str
    input: str | Ids | Annotated[list[str] | list[Ids], Field(min_length=1)]
    encoding_format: Literal["float", "base64"] = "float"

    @property
    def inputs(self) -> list[str] | list[list[int]]:
        """One or several inputs, each text or ids."""
        return _several(self.input)


class PredictBody(Body):
    """POST /v1/predict: rows as `tunesmith predict` takes them."""

    model: str
    rows: Annotated[list[dict[str, Any]], Field(min_length=1)]
    head: str | None = None


class LoadBody(Body):
    """POST /v1/load_lora_adapter, in vLLM's form."""

    lora_name: str
    lora_path: str
    load_inplace: Literal[False] = False


class UnloadBody(Body):
    """POST /v1/unload_lora_adapter, in vLLM's form."""

    lora_name: str
    lora_int_id: int | None = None


def _several(value: Any) -> Any:
    return value if isinstance(value, list) and not isinstance(value[0], int) else [value]


Kind = TypeVar("Kind", bound=Body)


def parse(kind: type[Kind], body: bytes) -> Kind:
    """A request's body.

    Raises:
        Refused: it is not JSON, or a field is wrong; the sentence names the first that is.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # Members of a union are named in the path (`stop.constrained-str`); a client knows fields and places only.
        path = [str(part) for i, part in enumerate(first["loc"]) if i == 0 or isinstance(part, int)]
        where, reason = ".".join(path), str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "json_invalid":
            raise Refused(400, f"the body is not JSON ({reason}); send a JSON object.") from error
        if first["type"] == "extra_forbidden":
            close = nearest(where, kind.model_fields)
            hint = f"did you mean `{close}`?" if close else "leave it out."
            raise Refused(400, f"`{where}` is not supported here; {hint}", where, "unsupported_parameter") from error
        if first["type"] == "missing":
            raise Refused(400, f"`{where}` is missing; send it.", where, "missing_parameter") from error
        sentence = f"`{where}`: {reason[:1].lower()}{reason[1:]}." if where else f"{reason[:1].lower()}{reason[1:]}."
        raise Refused(400, sentence, where or None, "invalid_value") from error
