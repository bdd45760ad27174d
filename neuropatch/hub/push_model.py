"""Publishing a patched model: from a folder, or from the Hub without a copy of it here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuropatch.checkpoint.plan import make_plan
from neuropatch.hub.branch import Destination, find_branch, read_tree
from neuropatch.hub.card import CardFacts, make_card
from neuropatch.hub.cardfile import card_metadata
from neuropatch.hub.client import Token, hub_client
from neuropatch.hub.commit import Commit
from neuropatch.hub.errors import translate_hub_errors
from neuropatch.hub.licence import Terms, base_licence
from neuropatch.hub.model import CopySource, HubBase, LocalBase, VariantBase, copy_sources
from neuropatch.hub.names import check_target, is_hub_id, parse_hub_name
from neuropatch.hub.push import CARD, Push, base_notes
from neuropatch.hub.resolve import hub_model, local_path
from neuropatch.hub.variant import VariantPlan, fill, plan_variant
from neuropatch.patch.metadata import BaseModel
from neuropatch.patch.patch import NeuronPatch
from neuropatch.progress import Progress

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@contextmanager
def prepare_model(
    model: str,
    patches: Sequence[str],
    to: Destination,
    *,
    apply: bool,
    base_model: str | None = None,
    terms: Terms | None = None,
    results: Mapping[str, Any] | None = None,
    token: Token = None,
) -> Iterator[Push]:
    """Get ready to publish a patched model, for the length of a ``with`` block.

    Args:
        model: A local folder, or a model on the Hub, of which only headers are fetched here and
            the weight files that are edited later, one at a time.
        patches: Patches to apply on the way; or, without ``apply``, those that the model holds.
        to: Where to.
        apply: Whether the patches are to be applied.
        base_model: The Hub model that a local folder was made from; None takes the patches' own.
        terms: The user's word about the licence.
        results: Results of an evaluation, to be shown on the card.
        token: Hub token; None takes the one that is logged in.

    Raises:
        NeuropatchError: If anything about the names, the model, the patches or the licence is
            wrong.
    """
    to = replace(to, repo=check_target(to.repo))
    api = hub_client(token)
    loaded = [NeuronPatch.from_pretrained(name, token=token) for name in patches]
    with tempfile.TemporaryDirectory(prefix="neuropatch-") as temporary:
        headers, scratch = Path(temporary) / "headers", Path(temporary) / "scratch"
        headers.mkdir()
        scratch.mkdir()
        source, base = _open_model(api, model, loaded, base_model, headers)
        if not apply and loaded:
            # The card would otherwise tell of patches that the model does not hold.
            make_plan(source.checkpoint, loaded, revert=True)
        plan = plan_variant(source, loaded if apply else [])
        local = source.checkpoint.folder if isinstance(source, LocalBase) else None
        known = next((p.metadata.license for p in loaded if p.metadata.license), None)
        licence = base_licence(api, base, terms or Terms(), recorded=known, folder=local)
        named = [
            (name if parse_hub_name(name) and not local_path(name).exists() else None, patch)
            for name, patch in zip(patches, loaded, strict=True)
        ]
        card = make_card(
            CardFacts(to.repo, "model", base, licence, tuple(named), results, exact=local is None)
        )
        yield _variant_push(api, to, plan, card, base, scratch)


def _variant_push(
    api: HfApi, to: Destination, plan: VariantPlan, card: str, base: BaseModel, scratch: Path
) -> Push:
    branch = find_branch(api, to)
    model = plan.model

    def fill_commit(commit: Commit, progress: Progress) -> list[str]:
        for path in plan.stale(commit.branch):
            commit.delete(path)
        filled = fill(commit, plan, scratch, progress)
        said = [filled.rounding.sentence()] if filled.rounding.rounded else []
        if not filled.drift.unequal or not filled.changed:
            return said
        return [
            *said,
            "the model is not the patch's base:",
            *(f"  {sentence}" for sentence in filled.drift.sentences()),
            f"  {filled.undo} in the repo gives this model's own bytes back",
        ]

    message = f"Patched model of {base.name}" if plan.parts else "Upload model"
    notes = base_notes(base)
    if model.left_out:
        notes.append(f"not part of the model: {', '.join(model.left_out)}")
    return Push(
        to,
        # A card in the folder knows nothing of patches that are applied on the way.
        (None if plan.parts else _folder_card(model)) or card,
        plan.planned(branch),
        api,
        message,
        fill_commit,
        lambda path: model.take(path, scratch),
        branch,
        notes,
    )


def _open_model(
    api: HfApi,
    name: str,
    patches: Sequence[NeuronPatch],
    base_model: str | None,
    headers: Path,
) -> tuple[VariantBase, BaseModel]:
    """The model that is sent, and the base model of its card."""
    path = local_path(name)
    if not path.is_dir():
        found = hub_model(name)
        hub_base = HubBase.open(api, found.repo, found.revision, headers)
        return hub_base, hub_base.base
    origin = next((p.metadata.base_model for p in patches), BaseModel())
    if base_model is not None:
        stated = hub_model(base_model)
        origin = BaseModel(stated.repo, stated.revision)
    sources: dict[str, CopySource] = {}
    if is_hub_id(origin.name):
        origin, sources = _origin(api, origin, stated=base_model is not None)
    local = LocalBase.open(path, sources)
    return local, origin if origin.name is not None else local.base


def _origin(
    api: HfApi, origin: BaseModel, *, stated: bool
) -> tuple[BaseModel, dict[str, CopySource]]:
    """A base on the Hub at its commit, with the files that can be copied from it."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    repo = origin.name or ""
    with translate_hub_errors(f"base model {repo}"):
        try:
            commit = api.resolve_revision(repo, revision=origin.revision).resolved
            paths = list(read_tree(api, repo, commit))
        except (RepositoryNotFoundError, RevisionNotFoundError):
            # Only a help: a base that has gone, or that one may not see, is not copied from.
            if stated:
                raise
            return origin, {}
    return BaseModel(repo, commit), copy_sources(api, repo, commit, paths)


def _folder_card(model: VariantBase) -> str | None:
    """The card in a local folder, if it is one for a patched model and not that of the base."""
    path = model.checkpoint.folder / CARD
    if not isinstance(model, LocalBase) or not path.is_file():
        return None
    data = path.read_bytes()
    tags = card_metadata(data).get("tags")
    own = isinstance(tags, list) and "neuropatch" in tags
    return data.decode("utf-8", "replace") if own else None
