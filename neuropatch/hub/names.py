"""Names of models and patches on the Hub, as users write them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from neuropatch.errors import HubError

_REPO = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_HUB_NAME = re.compile(rf"(?P<repo>{_REPO})(@(?P<revision>[^@\s]+))?", re.ASCII)
_HUB_ID = re.compile(_REPO, re.ASCII)
_SCHEME = "hf://"
_WRITE = "write user/name, user/name@revision or hf://user/name"


@dataclass(frozen=True)
class HubName:
    """A repo of the Hub, and what in it is meant.

    Attributes:
        repo: ``user/name``.
        revision: Branch, tag or commit; None for the default branch.
        path: A file in it; empty for the repo.
    """

    repo: str
    revision: str | None = None
    path: str = ""


def parse_hub_name(name: str) -> HubName | None:
    """Read ``user/name[@revision]`` or ``hf://[models/]user/name[@revision][/path]``.

    Returns:
        The parts, or None for a text that is neither, such as a path.

    Raises:
        HubError: If an ``hf://`` address is malformed, or names something else than a model repo.
    """
    if not name.startswith(_SCHEME):
        match = _HUB_NAME.fullmatch(name)
        return HubName(match["repo"], match["revision"]) if match else None
    from huggingface_hub import parse_hf_uri

    from neuropatch.hub.errors import translate_hub_errors

    with translate_hub_errors(name):
        uri = parse_hf_uri(name)
    if uri.type != "model" or not is_hub_id(uri.id):
        raise HubError(
            f"{name} names no model repo, in which models and patches are kept", hint=_WRITE
        )
    return HubName(uri.id, uri.revision, uri.path_in_repo)


def is_hub_id(name: str | None) -> bool:
    """Whether a name can be that of a repo on the Hub, ``user/name``."""
    return name is not None and _HUB_ID.fullmatch(name) is not None


def check_target(name: str) -> str:
    """The repo that a push goes to, as ``user/name``.

    Raises:
        HubError: If the Hub does not take repos of that name.
    """
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    from neuropatch.hub.errors import translate_hub_errors

    repo = name.removeprefix(_SCHEME)
    if "@" in repo:
        raise HubError(f"{name}: a push names its branch otherwise", hint="give it with --revision")
    if repo.count("/") != 1:
        raise HubError(f"'{name}' is not the name of a Hub repo", hint="write user/name")
    with translate_hub_errors(f"'{name}'"):
        validate_repo_id(repo)
    return repo
