"""Where a patch that a method makes comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuropatch.kernels import backends
from neuropatch.methods._base import Inputs, Method
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.provenance import library_versions


def patch_metadata(inputs: Inputs, method: Method, parameters: Mapping[str, Any]) -> PatchMetadata:
    """Metadata of a patch: the method, its parameters, the data and the libraries.

    Args:
        inputs: What the method worked on.
        method: The method.
        parameters: Its parameters, in types that JSON knows.
    """
    shared = {
        "seed": inputs.seed,
        "dtype": str(next(inputs.model.parameters()).dtype).removeprefix("torch."),
        "batch_tokens": inputs.limits.batch_tokens,
    }
    return PatchMetadata(
        architecture=inputs.layout.signature,
        base_model=inputs.base_model,
        method={
            "name": method.name,
            "paper": method.paper,
            "parameters": {**parameters, **shared},
        },
        datasets=tuple(corpus.record() for corpus in inputs.corpora),
        versions=library_versions(),
        kernels={backend.op: backend.backend for backend in backends()},
    )
