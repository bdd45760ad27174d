"""What a user has published with neuropatch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from neuropatch.errors import HubError
from neuropatch.hub.card import MODEL_TAG, PATCH_TAG
from neuropatch.hub.client import Token, hub_client, repeated
from neuropatch.hub.errors import translate_hub_errors

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

_BASE = "base_model:"
_LICENCE = "license:"
_RELATIONS = ("adapter", "finetune", "merge", "quantized")


@dataclass(frozen=True)
class Published:
    """A repo that neuropatch has made.

    Attributes:
        repo: ``user/name``.
        kind: ``patch`` or ``model``.
        base_model: Its base on the Hub, if its card names one.
        license: Its licence, if its card names one.
        private: Whether only its owner sees it.
        updated: Day of the last commit, ``YYYY-MM-DD``.
        downloads: Downloads in the last 30 days.
    """

    repo: str
    kind: str
    base_model: str | None
    license: str | None
    private: bool
    updated: str | None
    downloads: int

    def to_json(self) -> dict[str, Any]:
        """The repo as a JSON document."""
        return asdict(self)


def list_published(user: str, *, models: bool = False, token: Token = None) -> list[Published]:
    """Patches that a user or organisation has on the Hub, the newest first.

    Args:
        user: Name of the account.
        models: List patched models too.
        token: Hub token, which also shows private repos of its account.

    Raises:
        HubError: If the name cannot be one, or the Hub refuses or cannot be reached.
    """
    if "/" in user or not user:
        raise HubError(
            f"'{user}' is not the name of a user", hint="look at a repo with neuropatch inspect"
        )
    api = hub_client(token)
    found: dict[str, Published] = {}
    for tag, kind in ((PATCH_TAG, "patch"), (MODEL_TAG, "model"))[: 2 if models else 1]:
        with translate_hub_errors(f"list of the patches of {user}"):
            for info in repeated(partial(_tagged, api, user, tag), first=True):
                found[info.id] = _published(info, kind)
    return sorted(found.values(), key=lambda one: (one.updated or "", one.repo), reverse=True)


def _tagged(api: HfApi, user: str, tag: str) -> list[ModelInfo]:
    shown = api.list_models(
        author=user, filter=tag, expand=["tags", "private", "lastModified", "downloads"]
    )
    return list(shown)


def _published(info: ModelInfo, kind: str) -> Published:
    tags = info.tags or []
    bases = [tag.removeprefix(_BASE) for tag in tags if tag.startswith(_BASE)]
    plain = [base for base in bases if base.partition(":")[0] not in _RELATIONS]
    licences = [tag.removeprefix(_LICENCE) for tag in tags if tag.startswith(_LICENCE)]
    return Published(
        info.id,
        kind,
        plain[0] if plain else None,
        licences[0] if licences else None,
        bool(info.private),
        info.last_modified.date().isoformat() if info.last_modified else None,
        info.downloads or 0,
    )
