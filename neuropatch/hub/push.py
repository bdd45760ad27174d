"""Publishing a patch."""

from __future__ import annotations

from neuropatch.patch.format import encode
from neuropatch.patch.patch import PATCH_FILE, NeuronPatch


def push_patch(
    patch: NeuronPatch,
    repo_id: str,
    *,
    commit_message: str | None,
    private: bool | None,
    token: str | bool | None,
    revision: str | None,
    create_pr: bool,
) -> str:
    """Upload a patch file to a model repo; see :meth:`NeuronPatch.push_to_hub`.

    Raises:
        HubError: If the Hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    from neuropatch.hub.errors import translate_hub_errors

    api = HfApi(token=token, library_name="neuropatch")
    with translate_hub_errors(f"patch repo {repo_id}"):
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.create_commit(
            repo.repo_id,
            [CommitOperationAdd(PATCH_FILE, encode(patch))],
            commit_message=commit_message or f"Upload {PATCH_FILE}",
            revision=revision,
            create_pr=create_pr,
        )
    return str(commit.commit_url)
