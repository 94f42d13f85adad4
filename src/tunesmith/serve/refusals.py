"""What a client is told when something is wrong: one sentence in OpenAI's error object, under the right status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
FAULT = "this is the server's fault; its log says more, and the request may be sent again."


class Refused(Exception):
    """A request that is not answered.

    Args:
        status: of the HTTP answer.
        message: what is wrong, and what to do.
        param: the field that is wrong.
        code: OpenAI's short name for it.
        headers: of the answer.
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})

    @property
    def content(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = "server_error" if self.status >= 500 else TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def busy(seconds: int) -> Refused:
    """The queue is full."""
    message = f"the queue is full; try again in {seconds} s."
    return Refused(429, message, code="queue_full", headers={"Retry-After": str(seconds)})
