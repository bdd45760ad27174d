"""The definition format of an architecture, and its loader.

A definition is a JSON document::

    {
      "name": "llama",
      "model_types": ["llama", "mistral"],
      "dimensions": {"hidden": ["hidden_size"], "head_dim": ["head_dim", "hidden/heads"], ...},
      "stacks": [{
        "name": "decoder", "layers": "layers", "experts": "experts",
        "prefixes": ["model.layers.{layer}", "layers.{layer}"],
        "roles": {
          "gate": {"shape": ["intermediate", "hidden"],
                   "storage": {"path": "mlp.gate_proj.weight"}},
          ...
      }}],
      "tied": [{"tensors": ["lm_head.weight", "model.embed_tokens.weight"],
                "when": "tie_word_embeddings"}]
    }

``dimensions`` lists, per dimension, expressions tried in order: a key of the model's config, an
earlier dimension, a number, or a chain of them with ``*`` and ``/``. A role's ``storage`` holds
for files and memory alike; ``disk`` and ``memory`` say them apart where they differ. A storage
says where the matrix lies and how:

- ``path``: the tensor below the block's prefix; ``{expert}`` where each expert has its own.
- ``transposed``: stored ``[in, out]`` (GPT-2's Conv1D).
- ``stacked``: a 3-D tensor whose first axis is the expert.
- ``fused``: ``{"parts": ["heads*head_dim", "kv", "kv"], "part": 0, "groups": "1"}``: several roles
  share the rows of one tensor. The rows fall into ``groups`` equal groups, each holding one run
  of rows of every part in turn: one group is plain concatenation, a group per head is the
  per-head interleaving of GPT-NeoX, a group per row alternates single rows.

``tied`` names tensors that are one tensor in memory: the first is an alias that files may lack.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from neuropatch.errors import ArchitectureError
from neuropatch.models.coordinates import ROLES, STACKS

MAX_DIMENSION = 1 << 31
"""Configs are untrusted: no size of a real model comes near this."""


@dataclass(frozen=True)
class Fused:
    """One role's share of the rows of a fused tensor; sizes are expressions."""

    parts: tuple[str, ...]
    part: int
    groups: str = "1"


@dataclass(frozen=True)
class Storage:
    """Where a role's matrix lies below its block, and how it is laid out there."""

    path: str
    transposed: bool = False
    stacked: bool = False
    fused: Fused | None = None


@dataclass(frozen=True)
class RoleDefinition:
    """One role: its ``[out, in]`` shape as expressions, and its storages."""

    shape: tuple[str, str]
    memory: Storage
    disk: Storage


@dataclass(frozen=True)
class StackDefinition:
    """A run of layers of one kind."""

    name: str
    layers: str
    experts: str | None
    prefixes: tuple[str, ...]
    roles: Mapping[str, RoleDefinition]


@dataclass(frozen=True)
class Tied:
    """Tensors that share memory when a config key is true."""

    tensors: tuple[str, ...]
    when: str


@dataclass(frozen=True)
class ArchitectureDefinition:
    """All that neuropatch knows of an architecture."""

    name: str
    model_types: tuple[str, ...]
    dimensions: Mapping[str, tuple[str, ...]]
    stacks: tuple[StackDefinition, ...]
    tied: tuple[Tied, ...]


def parse_definition(document: Mapping[str, Any]) -> ArchitectureDefinition:
    """Build a definition from its JSON document.

    Raises:
        ArchitectureError: If a stack or role has a name that coordinates do not know.
        KeyError, TypeError: If a required field is missing or an unknown one is present.
    """
    stacks = tuple(_parse_stack(stack) for stack in document["stacks"])
    tied = tuple(Tied(tuple(t["tensors"]), t["when"]) for t in document.get("tied", ()))
    return ArchitectureDefinition(
        name=document["name"],
        model_types=tuple(document["model_types"]),
        dimensions={name: tuple(exprs) for name, exprs in document["dimensions"].items()},
        stacks=stacks,
        tied=tied,
    )


def _parse_stack(document: Mapping[str, Any]) -> StackDefinition:
    unknown = set(document["roles"]) - set(ROLES)
    if unknown or document["name"] not in STACKS:
        raise ArchitectureError(
            f"definition of stack '{document['name']}' names unknown {sorted(unknown) or 'stack'}",
            hint=f"roles are {', '.join(ROLES)}; stacks are {', '.join(STACKS)}",
        )
    return StackDefinition(
        name=document["name"],
        layers=document["layers"],
        experts=document.get("experts"),
        prefixes=tuple(document["prefixes"]),
        roles={
            role: _parse_role(document["roles"][role])
            for role in ROLES
            if role in document["roles"]
        },
    )


def _parse_role(document: Mapping[str, Any]) -> RoleDefinition:
    shared = document.get("storage")
    out, into = document["shape"]
    return RoleDefinition(
        shape=(out, into),
        memory=_parse_storage(document.get("memory", shared)),
        disk=_parse_storage(document.get("disk", shared)),
    )


def _parse_storage(document: Mapping[str, Any]) -> Storage:
    fields = dict(document)
    fused = fields.pop("fused", None)
    if fused is not None:
        fused = Fused(tuple(fused["parts"]), fused["part"], fused.get("groups", "1"))
    return Storage(fused=fused, **fields)


@cache
def definitions() -> Mapping[str, ArchitectureDefinition]:
    """Every bundled definition, by model type."""
    folder = files("neuropatch.models") / "_data" / "architectures"
    found: dict[str, ArchitectureDefinition] = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        definition = parse_definition(json.loads(entry.read_text(encoding="utf-8")))
        found.update(dict.fromkeys(definition.model_types, definition))
    return found


def definition_for(model_type: str) -> ArchitectureDefinition:
    """The definition of a transformers ``model_type``.

    Raises:
        ArchitectureError: If there is none.
    """
    try:
        return definitions()[model_type]
    except KeyError:
        raise ArchitectureError(
            f"the architecture {model_type!r} is not known",
            hint=f"known are {', '.join(sorted(definitions()))}",
        ) from None


def evaluate(expression: str, values: Mapping[str, Any]) -> int | None:
    """Evaluate a dimension expression; None if a name in it has no value.

    Args:
        expression: Names and whole numbers joined by ``*`` and ``/``, read left to right.
        values: Values by name; a name that is absent or null makes the result None.

    Raises:
        ArchitectureError: If a value is not a positive whole number of a credible size.
    """
    tokens = re.split(r"([*/])", expression.replace(" ", ""))
    result = 1
    for operator, token in zip(["*", *tokens[1::2]], tokens[::2], strict=True):
        value = int(token) if token.isdecimal() else values.get(token)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < MAX_DIMENSION:
            raise ArchitectureError(
                f"the model's config has {token} = {value!r}, which is not a size",
                hint="check config.json",
            )
        result = result * value if operator == "*" else result // value
    return result
