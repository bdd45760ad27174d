"""A definition for an architecture that has none, from the names and shapes of its tensors.

Transformers repeat a block: tensors whose names differ in one number are the layers of a stack. In
a block, matrices between the hidden size and one other size make up the MLP, and names tell the
projections of attention. What cannot be told for certain is left alone and listed, with the reason;
a person has to confirm the rest, since two square matrices look alike whatever they do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neuropatch.errors import ArchitectureError
from neuropatch.models.coordinates import ROLES
from neuropatch.models.definition import evaluate

Shapes = Mapping[str, tuple[int, ...]]

_NAMES: dict[str, str] = {
    "gate": "gate_proj gate w1 wi_0 linear_g",
    "up": "up_proj up w3 wi_1 wi fc1 fc_in c_fc lin1 linear1 dense_h_to_4h intermediate.dense "
    "expand w_in fc",
    "down": "down_proj down w2 wo fc2 fc_out c_proj lin2 linear2 dense_4h_to_h output.dense "
    "contract w_out proj",
    "q": "q_proj query_proj query q wq q_lin to_q",
    "k": "k_proj key_proj key k wk k_lin to_k",
    "v": "v_proj value_proj value v wv v_lin to_v",
    "o": "o_proj out_proj o wo out_lin to_out dense output.dense c_proj proj",
}
"""Names under which models keep each role, the last parts of a module's path."""

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_CROSS = re.compile(r"cross|enc_?dec|encoder_att", re.IGNORECASE)
_FUSED = re.compile(r"qkv|query_key_value|c_attn|in_proj|gate_up|kv_proj", re.IGNORECASE)

_BY_HAND = "write a definition by hand: docs/architectures.md says how"

_KEYS: dict[str, str] = {
    "layers": "num_hidden_layers n_layer n_layers num_layers",
    "hidden": "hidden_size d_model n_embd dim",
    "intermediate": "intermediate_size ffn_dim n_inner d_ff hidden_dim",
    "q_width": "hidden num_attention_heads*head_dim",
    "kv_width": "q_width num_key_value_heads*head_dim "
    "hidden/num_attention_heads*num_key_value_heads",
    "vocabulary": "vocab_size",
}
"""Expressions that usually say a size, in the order in which they are tried."""


@dataclass(frozen=True)
class Inferred:
    """What was inferred of an architecture.

    Attributes:
        document: The definition, as a JSON document; see :mod:`neuropatch.models.definition`.
        roles: For each role of each stack: stack, role, the tensors' pattern, and ``[out, in]``.
        left_alone: For each other matrix of the blocks: its pattern, and why no role was given it.
        outside: Number of tensors that are in no block.
    """

    document: dict[str, Any]
    roles: tuple[tuple[str, str, str, tuple[int, int]], ...]
    left_alone: tuple[tuple[str, str], ...]
    outside: int


def infer(config: Mapping[str, Any], shapes: Shapes) -> Inferred:
    """Infer where a checkpoint keeps the linear layers of its repeated blocks.

    Args:
        config: Its ``config.json``.
        shapes: Shapes of all tensors, by name.

    Raises:
        ArchitectureError: If no repeated block with an MLP is found that is the same in all
            layers of its stack, or a block has experts.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise ArchitectureError("the model's config has no model_type", hint="check config.json")
    stacks = _stacks(shapes)
    hidden = _hidden(config, [path for _, paths, _ in stacks.values() for path in paths.items()])
    sizes: dict[str, int] = {"hidden": hidden}
    found, left, roles = [], [], []
    for name, (prefix, paths, odd) in stacks.items():
        given, others = _assign(paths, hidden)
        _check_mlp(given, paths, prefix)
        others += [(path, "not the same in every layer") for path in odd]
        left += [(f"{prefix}.{{layer}}.{path}", reason) for path, reason in sorted(others)]
        count = _layers(shapes, prefix)
        found.append((name, prefix, count, given))
        roles += [
            (name, role, f"{prefix}.{{layer}}.{given[role]}", _matrix(paths[given[role]]))
            for role in ROLES
            if role in given
        ]
        sizes |= _own_sizes(name, count, given, paths, first=len(found) == 1)
    blocks = tuple(f"{prefix}." for _, prefix, _, _ in found)
    outside = [tensor for tensor in shapes if not tensor.startswith(blocks)]
    tables = [shapes[t] for t in outside if len(shapes[t]) == 2 and shapes[t][1] == hidden]
    sizes["vocabulary"] = max((rows for rows, _ in tables), default=hidden)
    document = {
        "name": model_type,
        "model_types": [model_type],
        "dimensions": _dimensions(config, sizes),
        "unpacked": [model_type],
        "stacks": [_stack(*one, first=number == 0) for number, one in enumerate(found)],
    }
    return Inferred(document, tuple(roles), tuple(left), len(outside))


def _stacks(shapes: Shapes) -> dict[str, tuple[str, Shapes, set[str]]]:
    """Per stack: the prefix of its layers, shapes of their matrices by path, and the odd paths."""
    layers: dict[str, dict[int, dict[str, tuple[int, ...]]]] = {}
    for tensor, shape in shapes.items():
        match = re.match(r"(.*?)\.(\d+)\.(.+)", tensor)
        if match and len(shape) >= 2:
            layers.setdefault(match[1], {}).setdefault(int(match[2]), {})[match[3]] = shape
    weights = {
        prefix: sum(_numel(shape) for block in blocks.values() for shape in block.values())
        for prefix, blocks in layers.items()
        if len(blocks) > 1 and set(blocks) == set(range(len(blocks)))
    }
    if not weights:
        raise ArchitectureError(
            "no repeated block is found among the tensors' names",
            hint=_BY_HAND,
        )
    stacks = {}
    for prefix in sorted(weights, key=lambda prefix: -weights[prefix]):
        name = "encoder" if re.search(r"\bencoder\b", prefix) else "decoder"
        # Of several stacks of one kind the largest counts: the others are a tower's or a head's.
        if name not in stacks:
            stacks[name] = (prefix, *_common(prefix, layers[prefix]))
    # A model whose only large stack is an encoder may have small ones besides, and vice versa.
    largest = max(weights.values())
    kept = {n: s for n, s in stacks.items() if weights[s[0]] * 4 >= largest}
    return {name: kept[name] for name in ("decoder", "encoder") if name in kept}


def _common(
    prefix: str, blocks: Mapping[int, Mapping[str, tuple[int, ...]]]
) -> tuple[Shapes, set[str]]:
    """Shapes of the matrices that all layers share, and the paths of the others."""
    for layer, block in blocks.items():
        if any(re.search(r"\bexperts?\b", path) for path in block):
            raise ArchitectureError(
                f"'{prefix}.{layer}' has experts, and which tokens they see cannot be inferred",
                hint=_BY_HAND,
            )
    common = set.intersection(*({*block.items()} for block in blocks.values()))
    if not common:
        raise ArchitectureError(f"the blocks of '{prefix}' share no matrices", hint=_BY_HAND)
    everything = {path for block in blocks.values() for path in block}
    return dict(common), everything - {path for path, _ in common}


def _numel(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _layers(shapes: Shapes, prefix: str) -> int:
    numbers = [re.match(rf"{re.escape(prefix)}\.(\d+)\.", tensor) for tensor in shapes]
    return 1 + max(int(match[1]) for match in numbers if match)


def _hidden(config: Mapping[str, Any], paths: list[tuple[str, tuple[int, ...]]]) -> int:
    """The size that most matrices have on one side: what flows from block to block."""
    counted = Counter(size for _, shape in paths for size in set(shape))
    most = max(counted.values())
    candidates = {size for size, count in counted.items() if count == most}
    said = [config.get(key) for key in _KEYS["hidden"].split()]
    return next((size for size in said if size in candidates), min(candidates))


def _assign(paths: Shapes, hidden: int) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Role by role its path in a block; and for the other paths why they have none."""
    given: dict[str, str] = {}
    left = []
    for path, shape in sorted(paths.items()):
        role, reason = _role_of(path.removesuffix(".weight"), shape, hidden)
        if role is None:
            left.append((path, reason))
        elif role in given:
            left.append((path, f"'{given[role]}' is '{role}' already"))
        else:
            given[role] = path
    for role, other, axis in (("v", "k", 0), ("o", "q", 1)):
        fits = {role, other} - set(given) or (paths[given[role]][axis] == paths[given[other]][0])
        if not fits:
            left.append((given.pop(role), f"it does not fit '{given[other]}'"))
    return given, left


def _role_of(module: str, shape: tuple[int, ...], hidden: int) -> tuple[str | None, str]:
    """The role of a matrix, or why it has none."""
    if len(shape) != 2:
        return None, f"{len(shape)} dimensions"
    if _CROSS.search(module):
        return None, "attention to another stack"
    if _FUSED.search(module):
        return None, "several matrices in one, whose rows may be mixed"
    roles = ("q", "k", "v", "o") if _ATTENTION.search(module) else ("gate", "up", "down")
    named = [role for role in roles if _is_named(module, role)]
    if len(named) != 1:
        return None, "its name says no role"
    into = 0 if named[0] in ("down", "o") else 1
    if shape[into] != hidden:
        return None, f"as '{named[0]}' it would be stored transposed, or of another size"
    return named[0], ""


def _is_named(module: str, role: str) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in _NAMES[role].split())


def _check_mlp(given: Mapping[str, str], paths: Mapping[str, Any], prefix: str) -> None:
    """Up and down must be there, and the MLP's matrices must go together."""
    widths = {
        role: paths[given[role]][1 if role == "down" else 0]
        for role in ("gate", "up", "down")
        if role in given
    }
    if not {"up", "down"} <= set(widths) or len(set(widths.values())) > 1:
        raise ArchitectureError(
            f"the MLP of '{prefix}' cannot be told from its tensors' names and shapes",
            hint=_BY_HAND,
        )


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    out, into = shape
    return out, into


def _own_sizes(
    name: str, count: int, given: Mapping[str, str], paths: Shapes, *, first: bool
) -> dict[str, int]:
    """Sizes of a stack; those of a second stack are called by its name."""
    sizes = {"layers": count, "intermediate": paths[given["up"]][0]}
    if "q" in given or "o" in given:
        sizes["q_width"] = paths[given["q"]][0] if "q" in given else paths[given["o"]][1]
    if "k" in given or "v" in given:
        sizes["kv_width"] = paths[given["k" if "k" in given else "v"]][0]
    return sizes if first else {f"{name}_{key}": size for key, size in sizes.items()}


def _dimensions(config: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, list[str]]:
    """An expression for every size: one that the config says, or else the number itself."""
    values: dict[str, Any] = {k: v for k, v in config.items() if type(v) is int and v > 0}
    dimensions = {}
    for name, size in sizes.items():
        usual = _KEYS[re.sub(r"^(decoder|encoder)_", "", name)].split()
        others = sorted(key for key in config if values.get(key) == size)
        said = (one for one in (*usual, *others) if evaluate(one, values) == size)
        dimensions[name] = [next(said, str(size))]
        values[name] = size
    return dimensions


def _stack(
    name: str, prefix: str, count: int, given: Mapping[str, str], *, first: bool
) -> dict[str, Any]:
    own = (lambda key: key) if first else (lambda key: f"{name}_{key}")
    width, q, kv = own("intermediate"), own("q_width"), own("kv_width")
    shapes = {
        "gate": [width, "hidden"],
        "up": [width, "hidden"],
        "down": ["hidden", width],
        "q": [q, "hidden"],
        "k": [kv, "hidden"],
        "v": [kv, "hidden"],
        "o": ["hidden", q],
    }
    # The bare model lacks the first part of the names, and a head may have added one.
    inner = prefix.partition(".")[2]
    prefixes = [f"{one}.{{layer}}" for one in (prefix, inner, f"model.{prefix}") if one]
    roles = {role: given[role] for role in ROLES if role in given}
    return {
        "name": name,
        "layers": own("layers"),
        "prefixes": prefixes,
        "roles": {
            role: {"shape": shapes[role], "storage": {"path": path}} for role, path in roles.items()
        },
    }
