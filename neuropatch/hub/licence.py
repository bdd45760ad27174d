"""The licence of a base model, and whether what is made from it may be published.

A patch carries values of its base, and a patched model is mostly its base: both are derived from
it, and inherit its licence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuropatch.errors import HubError
from neuropatch.hub.names import is_hub_id
from neuropatch.patch.metadata import BaseModel

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")
_LINK = re.compile(r"https://[^\s<>\"']{1,300}")
_NAME_LENGTH = 100
_UNKNOWN = frozenset({"unknown", "none"})
_OWN_TERMS = "other"


@dataclass(frozen=True)
class Licence:
    """What a model's card says about its licence.

    Attributes:
        id: The Hub's id of the licence, such as ``apache-2.0``; None if it is unknown.
        name: Name of a licence of the model's own.
        link: Where its text is.
        gated: Whether the Hub gives the model's files to people it has granted access only.
    """

    id: str | None = None
    name: str | None = None
    link: str | None = None
    gated: bool = False

    @classmethod
    def read(cls, card: Mapping[str, Any], *, gated: bool = False) -> Licence:
        """Read the fields of a card's metadata; what is not of their form is left out."""
        found = card.get("license")
        if isinstance(found, list) and len(found) == 1:
            found = found[0]
        identity = found if isinstance(found, str) and _ID.fullmatch(found) else None
        name, link = card.get("license_name"), card.get("license_link")
        return cls(
            None if identity is None or identity.lower() in _UNKNOWN else identity.lower(),
            name if isinstance(name, str) and len(name) <= _NAME_LENGTH else None,
            link if isinstance(link, str) and _LINK.fullmatch(link) else None,
            gated,
        )

    @property
    def no_derivatives(self) -> bool:
        """Whether the licence forbids to share what is made from the model."""
        return self.id is not None and "nd" in re.split(r"[-_]", self.id)


@dataclass(frozen=True)
class Terms:
    """The user's word about the licence.

    Attributes:
        license: Licence to publish under, where the base's is not known.
        accepted: The user has checked that the base's terms allow it.
    """

    license: str | None = None
    accepted: bool = False


def check_licence_id(identity: str) -> str:
    """A licence that the user names.

    Raises:
        HubError: If it cannot be the id of one.
    """
    if not _ID.fullmatch(identity):
        raise HubError(
            f"--license '{identity}' is not the id of a licence",
            hint="use an id of https://huggingface.co/docs/hub/repositories-licenses, "
            "such as apache-2.0",
        )
    return identity.lower()


def hub_licence(api: HfApi, repo: str) -> Licence | None:
    """What the Hub says about the licence of a model, or None if it shows no such model."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    from neuropatch.hub.client import repeated
    from neuropatch.hub.errors import translate_hub_errors

    with translate_hub_errors(f"base model {repo}"):
        try:
            info = repeated(lambda: api.model_info(repo), first=True)
        except GatedRepoError:
            return Licence(gated=True)
        except RepositoryNotFoundError:
            return None
    card = {} if info.card_data is None else dict(info.card_data.to_dict())  # type: ignore[no-untyped-call]
    if "license" not in card:
        named = [tag for tag in info.tags or () if tag.startswith("license:")]
        card = {**card, "license": named[0].removeprefix("license:") if named else None}
    return Licence.read(card, gated=bool(info.gated))


def folder_licence(folder: Path) -> Licence:
    """What the card in a model's folder says about its licence."""
    from neuropatch.hub.cardfile import card_metadata

    path = folder / "README.md"
    return Licence.read(card_metadata(path.read_bytes()) if path.is_file() else {})


def decide_licence(
    base: Licence | None, *, base_name: str, stated: str | None, accepted: bool
) -> Licence:
    """The licence to publish under.

    Args:
        base: What is known of the base model's licence; None if nothing is.
        base_name: The base model, for the message.
        stated: The licence that the user names, which replaces one that is not known.
        accepted: Whether the user has checked that publishing is allowed.

    Raises:
        HubError: If the user has to decide, saying what about.
    """
    known = base or Licence()
    decided = known
    if stated is not None and stated != known.id:
        decided = replace(known, id=stated, name=None, link=None)
    if accepted:
        return decided
    confirm = "if its owner allows it, confirm with --accept-license"
    if known.no_derivatives:
        raise HubError(
            f"the licence of {base_name} ({known.id}) forbids to share changed versions",
            hint=confirm,
        )
    if known.gated:
        raise HubError(
            f"{base_name} is gated: its owner gives it to people who accept its terms only",
            hint=f"read the terms on its page; {confirm}",
        )
    if known.id == _OWN_TERMS:
        named = f" ({known.name})" if known.name else ""
        raise HubError(
            f"{base_name} has a licence of its own{named}, which may limit what is made from it",
            hint="read it; if it allows this, confirm with --accept-license",
        )
    if known.id is not None and decided.id != known.id:
        raise HubError(
            f"--license {stated}, but the licence of {base_name} is {known.id}",
            hint="leave --license out; if its owner allows another one, confirm with "
            "--accept-license",
        )
    if decided.id is None:
        raise HubError(
            f"the licence of {base_name} is not known",
            hint="find it out and name it, such as --license apache-2.0",
        )
    return decided


def base_licence(
    api: HfApi,
    base: BaseModel,
    terms: Terms,
    *,
    recorded: str | None = None,
    folder: Path | None = None,
) -> Licence:
    """The licence to publish under what is made from a model.

    Args:
        api: The Hub client.
        base: The model; its card on the Hub counts if it has one.
        terms: The user's word.
        recorded: The licence that a patch records for it.
        folder: Its folder, whose card counts where the Hub shows none.

    Raises:
        HubError: If the user has to decide, saying what about; or if the Hub cannot be reached.
    """
    stated = None if terms.license is None else check_licence_id(terms.license)
    name = base.name or "the base model"
    known = hub_licence(api, name) if is_hub_id(name) else None
    if known is None and folder is not None:
        known = folder_licence(folder)
    if known is None or (known.id is None and recorded is not None):
        known = Licence.read({"license": recorded}, gated=known is not None and known.gated)
    return decide_licence(known, base_name=name, stated=stated, accepted=terms.accepted)
