"""Without a network the hub's client is content with its cache at once."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from huggingface_hub import constants

from tunesmith import hub


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_ours", False)
    for name in hub.PROXIES:
        monkeypatch.delenv(name, raising=False)


def names(known: bool, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let names be known or not; returns what is asked for."""
    asked: list[Any] = []

    def find(*given: Any) -> list[Any]:
        asked.append(given)
        if not known:
            raise socket.gaierror(-2, "Name or service not known")
        return []

    monkeypatch.setattr(socket, "getaddrinfo", find)
    return asked


def test_goes_offline_where_the_name_is_unknown_and_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import datasets

    names(False, monkeypatch)
    assert not hub.look() and constants.HF_HUB_OFFLINE and datasets.config.HF_HUB_OFFLINE
    assert not hub.look()
    assert capsys.readouterr().err.count("cannot be reached") == 1
    names(True, monkeypatch)
    assert hub.look() and not constants.HF_HUB_OFFLINE and not datasets.config.HF_HUB_OFFLINE


def test_what_the_user_decided_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = names(True, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub.look() and constants.HF_HUB_OFFLINE and not asked


def test_a_proxy_finds_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = names(False, monkeypatch)
    monkeypatch.setenv("HTTPS_PROXY", "socks5://localhost:1")
    assert hub.look() and not constants.HF_HUB_OFFLINE and not asked
