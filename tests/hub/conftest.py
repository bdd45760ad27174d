"""A Hub on the loopback interface, for the real clients."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from huggingface_hub import close_session, constants, hf_api

from .server import FakeHub

# Invented, and built at run time so that no scanner takes it for a token that leaked.
TOKEN = "hf_" + "Invented" * 4


@pytest.fixture
def token() -> str:
    """A token that no Hub knows until a test adds a user who has it."""
    return TOKEN


@pytest.fixture
def use_endpoint(monkeypatch, tmp_path):
    """``use_endpoint(url)``: the client asks this address, with an empty home and no token."""
    home = tmp_path / "hf-home"

    def use(url: str) -> None:
        # The client reads its variables when it is imported.
        values = {
            "ENDPOINT": url,
            "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
            "AGENT_HARNESSES_PATH": str(home / "harnesses.json"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }
        for name, value in values.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(hf_api.api, "endpoint", url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
            monkeypatch.delenv(variable, raising=False)
        _forget_clients()

    yield use
    _forget_clients()


def _forget_clients() -> None:
    """Drop what outlives a test: connections, proxies, and the address that transformers knows."""
    close_session()
    if (module := sys.modules.get("transformers.utils.hub")) is not None:
        module._hf_api = None


@pytest.fixture
def hub(use_endpoint, tmp_path) -> Iterator[FakeHub]:
    """A running test Hub, which the clients in this process ask, with an empty ``HF_HOME``.

    It knows no user and has no repo. ``hub.environment(home)`` is for clients in other processes.
    """
    with FakeHub(tmp_path / "hub") as running:
        use_endpoint(running.url)
        yield running


@pytest.fixture
def patch(make_patch, make_layout):
    return make_patch(make_layout("llama"))
