"""Some hundred requests to every address of a running server; `make fuzz` is the long form."""

from __future__ import annotations

from collections.abc import Iterator

import endpoints
import pytest
import requests
from schemathesis.core.failures import FailureGroup
from schemathesis.generation.modes import GenerationMode
from served import Running


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Running]]:
    with endpoints.servers(tmp_path_factory.mktemp("servers")) as found:
        yield found


def test_the_document_names_every_address(both: list[Running]) -> None:
    from tunesmith.serve import openapi
    from tunesmith.serve.app import build

    routes = {(route.path, method.lower()) for route in build(both[0].service).routes for method in route.methods}  # type: ignore[attr-defined]
    told = {(path, method) for path, found in openapi.PATHS.items() for method in found}
    assert {(path, method) for path, method in routes if method != "head"} == told | {("/openapi.json", "get")}
    document = requests.get(f"{both[0].url}/openapi.json", timeout=10).json()
    assert document["components"]["schemas"]["ChatBody"]["additionalProperties"] is False
    assert "security" not in document and "security" in openapi.document("1", token=True)


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("which", [0, 1])
def test_requests_from_the_document(both: list[Running], which: int, mode: GenerationMode) -> None:
    described = endpoints.Described(both[which])
    for number, operation in enumerate(described.operations):
        described.examine(operation, mode, 4, number)
    assert described.runs >= 24
    assert bool(described.answered) == (mode is GenerationMode.POSITIVE)


@pytest.mark.parametrize("which", [0, 1])
def test_bodies_that_are_nearly_right(both: list[Running], which: int) -> None:
    mutated = endpoints.Mutated(both[which])
    for _ in range(250):
        mutated.one()
    assert mutated.answered > 5


def test_the_fuzzer_sees_what_is_wrong(both: list[Running], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stumbles, and one that answers what its document does not say."""
    from tunesmith.serve.service import Service

    monkeypatch.setattr(Service, "models", lambda self: 1 / 0)
    with pytest.raises(FailureGroup, match="500"):
        examine_models(both[0])
    monkeypatch.setattr(Service, "models", lambda self: {"object": "list", "data": [{"id": 3}]})
    with pytest.raises(FailureGroup, match="ST"):
        examine_models(both[0])


def examine_models(server: Running) -> None:
    described = endpoints.Described.__new__(endpoints.Described)
    described.schema = endpoints.schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    described.models, described.runs, described.answered = [], 0, 0
    described.session = requests.Session()
    (operation,) = (found.ok() for found in described.schema.get_all_operations() if found.ok().path == "/v1/models")
    described.examine(operation, GenerationMode.POSITIVE, 2, 0)
