"""Counters and histograms in Prometheus's text format (version 0.0.4), which is lines of `name{label="value"} number`."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
PREFIX = "tunesmith_"
HELP = {
    "requests_total": "Answered HTTP requests.",
    "request_seconds": "From the request's first byte to the last of its answer.",
    "first_token_seconds": "From a request's arrival in the queue to its first token.",
    "queue_seconds": "From a request's arrival in the queue to the start of its work.",
    "prompt_tokens_total": "Tokens that were read.",
    "written_tokens_total": "Tokens that were written.",
    "rows_total": "Rows that were predicted or embedded.",
    "steps_total": "Decoding steps; written tokens over steps is the mean size of a batch.",
    "finished_total": "Texts that ended, and why.",
    "refused_total": "Requests that found the queue full.",
    "running": "Texts that are being written.",
    "waiting": "Requests in the queue.",
    "slots": "Texts that can be written at the same time.",
    "adapters": "Adapters that are loaded.",
    "adapter_bytes": "Bytes of an adapter's tensors.",
}

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """What happened since the start; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
        self._buckets: dict[str, dict[Labels, list[int]]] = defaultdict(dict)
        self._sums: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
        self._gauges: dict[str, Callable[[], dict[Labels, float]]] = {}

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[name][_key(labels)] += amount

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Put a duration into a histogram."""
        key = _key(labels)
        with self._lock:
            buckets = self._buckets[name].setdefault(key, [0] * (len(SECONDS) + 1))
            buckets[bisect_left(SECONDS, seconds)] += 1
            self._sums[name][key] += seconds

    def gauge(self, name: str, read: Callable[[], float | dict[Labels, float]]) -> None:
        """A number that is read when somebody asks."""

        def found() -> dict[Labels, float]:
            value = read()
            return value if isinstance(value, dict) else {(): value}

        self._gauges[name] = found

    def value(self, name: str, **labels: str) -> float:
        """A counter's value."""
        with self._lock:
            return self._counts[name].get(_key(labels), 0.0)

    def render(self) -> str:
        """Everything as text."""
        with self._lock:
            lines = list(self._lines())
        for name, read in self._gauges.items():
            lines += [
                *_head(name, "gauge"),
                *(f"{PREFIX}{name}{_braces(key)} {_number(v)}" for key, v in read().items()),
            ]
        return "\n".join(lines) + "\n"

    def _lines(self) -> Iterator[str]:
        for name, series in self._counts.items():
            yield from _head(name, "counter")
            for key, value in sorted(series.items()):
                yield f"{PREFIX}{name}{_braces(key)} {_number(value)}"
        for name, histograms in self._buckets.items():
            yield from _head(name, "histogram")
            for key, buckets in sorted(histograms.items()):
                total = 0
                for bound, count in zip((*map(str, SECONDS), "+Inf"), buckets, strict=True):
                    total += count
                    yield f"{PREFIX}{name}_bucket{_braces((*key, ('le', bound)))} {total}"
                yield f"{PREFIX}{name}_sum{_braces(key)} {_number(self._sums[name][key])}"
                yield f"{PREFIX}{name}_count{_braces(key)} {total}"


class CountRequests:
    """Middleware that counts answers by route and status."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.monotonic(), "499"  # a client that left before its answer began

        async def counted(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, counted)
        finally:
            # The route as it is declared, never what a client wrote: labels must stay few.
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.count("requests_total", route=route, status=status)
            self.metrics.observe("request_seconds", time.monotonic() - start, route=route)


def _key(labels: dict[str, str]) -> Labels:
    return tuple(sorted(labels.items()))


def _head(name: str, kind: str) -> list[str]:
    return [f"# HELP {PREFIX}{name} {HELP[name]}", f"# TYPE {PREFIX}{name} {kind}"]


def _braces(key: Labels) -> str:
    quoted = (f'{n}="{v.replace(chr(92), chr(92) * 2).replace(chr(34), chr(92) + chr(34))}"' for n, v in key)
    text = ",".join(quoted).replace("\n", "\\n")
    return f"{{{text}}}" if key else ""


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
