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

``dimensions`` lists, per dimension, expressions tried in order: a key of the model's config
(``part.key`` is a key of a part of it), an earlier dimension, a number, or a chain of them with
``*``, ``/`` and ``+``. Where a size depends on another key,
``{"when": {"multi_query": true}, "is": "1"}`` stands for an expression that counts only for that
value (or one of a list of values). Dimensions named in ``optional`` are 0 where the config does not
say them. ``defaults`` are the config's values of keys that files may leave out.

A role's ``storage`` holds for files and memory alike; ``disk`` and ``memory`` say them apart where
they differ, and ``disk`` may be a list: checkpoints of one architecture differ by who saved them.
A storage says where the matrix lies and how:

- ``path``: the tensor below the block's prefix; ``{expert}`` where each expert has its own.
- ``transposed``: stored ``[in, out]`` (GPT-2's Conv1D).
- ``stacked``: a 3-D tensor whose first axis is the expert, or with ``flat`` a 2-D tensor of the
  experts' rows one after the other (DBRX).
- ``fused``: ``{"parts": ["heads*head_dim", "kv", "kv"], "part": 0, "groups": "1"}``: several roles
  share the rows of one tensor. The rows fall into ``groups`` equal groups, each holding one run
  of rows of every part in turn: one group is plain concatenation, a group per head is the
  per-head interleaving of GPT-NeoX, a group per row alternates single rows.

A role whose place differs by layer or by config is a list of alternatives, of which a matrix has
the first that applies: ``"in": "sparse"`` or ``"not_in": "sparse"`` says for which layers,
``"when": "shared"`` or ``"unless": "shared"`` for which models (that dimension is not 0, or is).
``layer_sets`` says which layers those are: ``{"sparse": {"listed": "moe_layers"}}`` are the layers
that a key lists, and without such a key layer ``i`` is one if ``i >= from``, ``step`` divides
``i + 1``, and ``except`` does not list it (all three are keys, and may be left out). Experts are
indices from 0; the MLP of a sparse layer that every token passes (a shared expert) is the layer's
dense block.

``towers`` maps types of multimodal models to the key of their text model's config.
``per_token`` lists expressions for the number of experts that a token passes.
``tied`` names tensors that are one tensor in memory: the first is an alias that files may lack.
``unpacked`` are the model types in which samples that follow each other in one row would see each
other: their attention is code of their own, or adds to the scores what packing does not know of.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from neuropatch.errors import ArchitectureError
from neuropatch.models.coordinates import ROLES, STACKS
from neuropatch.models.own import own_documents

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
    flat: bool = False
    fused: Fused | None = None

    @property
    def per_expert(self) -> bool:
        """Whether it holds the matrices of experts."""
        return self.stacked or "{expert}" in self.path


@dataclass(frozen=True)
class RoleDefinition:
    """One way to hold a role: its ``[out, in]`` shape as expressions, and its storages.

    Attributes:
        shape: ``[out, in]`` as expressions.
        memory: Where a module tree holds it.
        disk: Where files may hold it, the usual place first.
        inside: The layer set that has it so, or None for all layers.
        outside: The layer set that does not have it so, or None.
        when: The dimension that must not be 0, or None.
        unless: The dimension that must be 0, or None.
    """

    shape: tuple[str, str]
    memory: Storage
    disk: tuple[Storage, ...]
    inside: str | None = None
    outside: str | None = None
    when: str | None = None
    unless: str | None = None


@dataclass(frozen=True)
class StackDefinition:
    """A run of layers; every role's alternatives, the first that applies counts."""

    name: str
    layers: str
    experts: str | None
    prefixes: tuple[str, ...]
    roles: Mapping[str, tuple[RoleDefinition, ...]]


@dataclass(frozen=True)
class LayerSet:
    """Which layers are of a kind; all fields are keys of the config.

    Attributes:
        listed: Key of the list of the layers' indices; the others count where it is not there.
        start: Key of the first layer of the kind (0).
        step: Key of the distance between two of them (1).
        excluded: Key of a list of layers that are not (none).
    """

    listed: str | None = None
    start: str | None = None
    step: str | None = None
    excluded: str | None = None


@dataclass(frozen=True)
class Conditional:
    """An expression that counts where config keys have one of some values."""

    when: Mapping[str, tuple[Any, ...]]
    value: str

    def holds(self, config: Mapping[str, Any]) -> bool:
        """Whether the config has one of the values for every key."""
        return all(config.get(key) in values for key, values in self.when.items())


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
    dimensions: Mapping[str, tuple[Conditional, ...]]
    stacks: tuple[StackDefinition, ...]
    tied: tuple[Tied, ...]
    optional: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    layer_sets: Mapping[str, LayerSet] = field(default_factory=dict)
    towers: Mapping[str, str] = field(default_factory=dict)
    unpacked: frozenset[str] = frozenset()
    per_token: tuple[str, ...] = ()


def parse_definition(document: Mapping[str, Any]) -> ArchitectureDefinition:
    """Build a definition from its JSON document.

    Raises:
        ArchitectureError: If a stack or role has a name that coordinates do not know.
        KeyError, TypeError: If a required field is missing or an unknown one is present.
    """
    fields = dict(document)
    stacks = tuple(_parse_stack(stack) for stack in fields.pop("stacks"))
    tied = tuple(Tied(tuple(t["tensors"]), t["when"]) for t in fields.pop("tied", ()))
    sets = {name: _parse_layers(one) for name, one in fields.pop("layer_sets", {}).items()}
    return ArchitectureDefinition(
        model_types=tuple(fields.pop("model_types")),
        dimensions={
            name: tuple(_parse_expression(expression) for expression in expressions)
            for name, expressions in fields.pop("dimensions").items()
        },
        stacks=stacks,
        tied=tied,
        optional=frozenset(fields.pop("optional", ())),
        unpacked=frozenset(fields.pop("unpacked", ())),
        per_token=tuple(fields.pop("per_token", ())),
        layer_sets=sets,
        **fields,
    )


def _parse_expression(document: str | Mapping[str, Any]) -> Conditional:
    if isinstance(document, str):
        return Conditional({}, document)
    when = {
        key: tuple(value) if isinstance(value, list) else (value,)
        for key, value in document["when"].items()
    }
    return Conditional(when, document["is"])


def _parse_layers(document: Mapping[str, str]) -> LayerSet:
    fields = dict(document)
    return LayerSet(start=fields.pop("from", None), excluded=fields.pop("except", None), **fields)


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
            role: tuple(map(_parse_role, _listed(document["roles"][role])))
            for role in ROLES
            if role in document["roles"]
        },
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _parse_role(document: Mapping[str, Any]) -> RoleDefinition:
    fields = dict(document)
    shared = fields.pop("storage", None)
    out, into = fields.pop("shape")
    return RoleDefinition(
        shape=(out, into),
        memory=_parse_storage(fields.pop("memory", shared)),
        disk=tuple(map(_parse_storage, _listed(fields.pop("disk", shared)))),
        inside=fields.pop("in", None),
        outside=fields.pop("not_in", None),
        **fields,
    )


def _parse_storage(document: Mapping[str, Any]) -> Storage:
    fields = dict(document)
    fused = fields.pop("fused", None)
    if fused is not None:
        fused = Fused(tuple(fused["parts"]), fused["part"], fused.get("groups", "1"))
    return Storage(fused=fused, **fields)


@cache
def definitions() -> Mapping[str, ArchitectureDefinition]:
    """Every definition by model type: the bundled ones, and the user's own."""
    folder = files("neuropatch.models") / "_data" / "architectures"
    found: dict[str, ArchitectureDefinition] = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        definition = parse_definition(json.loads(entry.read_text(encoding="utf-8")))
        found.update(dict.fromkeys((*definition.model_types, *definition.towers), definition))
    return {**found, **_own_definitions(found)}


def _own_definitions(
    bundled: Mapping[str, ArchitectureDefinition],
) -> dict[str, ArchitectureDefinition]:
    """The user's definitions, which add to the bundled ones and do not replace any."""
    found: dict[str, ArchitectureDefinition] = {}
    for path, document in own_documents():
        try:
            definition = parse_definition(document)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ArchitectureError(
                f"{path} is no definition of an architecture: {error!r}",
                hint="correct it, or remove it",
            ) from None
        taken = {*definition.model_types} & {*bundled, *found}
        if taken:
            raise ArchitectureError(
                f"{path} defines {', '.join(sorted(taken))}, which is defined already",
                hint="remove the file",
            )
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
            hint="let it be inferred: neuropatch layout MODEL shows how its layers would be "
            "read, and --accept-inferred keeps that",
        ) from None


def evaluate(expression: str, values: Mapping[str, Any]) -> int | None:
    """Evaluate a dimension expression; None if a name in it has no value.

    Args:
        expression: Names and whole numbers joined by ``*``, ``/`` and ``+``, read left to right.
        values: Values by name; a name that is absent or null makes the result None.

    Raises:
        ArchitectureError: If a value is not a positive whole number of a credible size.
    """
    tokens = re.split(r"([*/+])", expression.replace(" ", ""))
    result = 0
    for sign, token in zip(["+", *tokens[1::2]], tokens[::2], strict=True):
        value = int(token) if token.isdecimal() else values.get(token)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < MAX_DIMENSION:
            raise ArchitectureError(
                f"the model's config has {token} = {value!r}, which is not a size",
                hint="check config.json",
            )
        result = _OPERATORS[sign](result, value)
    return result


_OPERATORS = {"+": operator.add, "*": operator.mul, "/": operator.floordiv}
