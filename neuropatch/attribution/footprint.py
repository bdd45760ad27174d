"""What a forward and backward pass holds and computes for each token, from a model's sizes alone.

With frozen weights autograd keeps less than in training: a linear layer keeps its weight, and its
input only where :class:`~neuropatch.attribution.tap.LinearTap` holds it for the scores. What is
left was counted with ``torch.autograd.graph.saved_tensors_hooks`` on models of transformers, as
``tests/attribution/test_footprint.py`` does again:

- a norm keeps its input, in float32 whatever the model's type is;
- attention keeps queries, keys, values and its output; on a CPU in float32
  (:mod:`neuropatch.models.packing`);
- a gated MLP keeps gate, activated gate and up, and the tap its input and the product;
- an expert does so for the tokens that the router gives it, and keeps its output before and after
  the router's weight besides;
- the loss keeps a float32 row of logits for each label, and its backward pass makes another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuropatch.models.binding import experts_per_token, own_config
from neuropatch.models.coordinates import DENSE, BlockId, MatrixId
from neuropatch.models.layout import Layout

_COMPOSED = frozenset({"gelu_new", "gelu_fast", "gelu_python", "quick_gelu"})
"""Activations that transformers composes of several operations, each of which keeps its input."""

GAPS = 0.23
"""Gaps on a CPU, as a share of what is kept.

Between tensors that are kept, glibc's heap is left with gaps where others were freed. On models
with SmolLM2's widths the peak is 22 to 24 % of the kept bytes above their sum; with every tensor in
pages of its own (``MALLOC_MMAP_THRESHOLD_=65536``) it is the sum. ``benchmarks/plan_estimates.py``
measures both.
"""

KERNEL_PANEL = 48
"""Columns that the kernel of the scores packs at a time."""


@dataclass(frozen=True)
class Footprint:
    """What one token takes.

    Attributes:
        saved: Bytes that are kept of it from the forward to the backward pass, in all layers.
        gaps: Bytes of gaps between those, see :data:`GAPS`.
        passing: Bytes of the gradients in the widest MLP while it is differentiated.
        logits: Bytes that a label's logits take while the loss is differentiated.
        linear: Weights of linear layers that it is multiplied with.
        scored: Those among them that are scored.
        head: Weights of the output embedding.
        attended: Widths of all layers' queries, together.
    """

    saved: int
    gaps: int
    passing: int
    logits: int
    linear: int
    scored: int
    head: int
    attended: int

    def bytes(self, tokens: int, labels: int) -> int:
        """Bytes of a batch: all that is kept, and the larger of the two backward peaks."""
        kept = tokens * (self.saved + self.gaps)
        return kept + max(labels * self.logits, tokens * self.passing)


def footprint(
    layout: Layout,
    matrices: Sequence[MatrixId],
    config: Mapping[str, Any],
    *,
    item_size: int,
    on_cpu: bool = True,
) -> Footprint:
    """What one token takes in a model.

    Args:
        layout: The model's layout.
        matrices: The matrices that are scored.
        config: Its ``config.json`` document.
        item_size: Bytes of one value of the model's type.
        on_cpu: Whether it runs on a CPU, where attention takes 16-bit models in float32.
    """
    sizes = layout.signature.dimensions
    hidden = sizes["hidden"]
    _, own = own_config(layout.definition, config)
    composed = (own.get("hidden_act") or own.get("activation_function")) in _COMPOSED
    # Where nothing says how many experts a token passes, it may pass all.
    routed = experts_per_token(layout.definition, config) or sizes.get("experts", 1)
    attention_item = 4 if on_cpu else item_size
    saved = passing = linear = counted = attended = 0
    for one in _blocks(layout, matrices):
        times = routed if one.is_expert else 1
        linear += times * one.linear
        counted += times * one.scored
        attended += one.query
        saved += attention_item * one.attention
        saved += item_size * times * (one.inputs + one.mlp(composed=composed))
        if not one.is_expert:
            saved += 2 * 4 * hidden
        working = item_size * (hidden + 3 * one.width) + 4 * (one.width + KERNEL_PANEL)
        passing = max(passing, working)
    wide_item = max(4, item_size)
    return Footprint(
        saved=saved,
        gaps=round(GAPS * saved) if on_cpu else 0,
        passing=passing,
        # Logits and their gradient, or the gradient of the loss and its product with that of the
        # mean, which a model of 16 bits holds in its own type as well.
        logits=sizes["vocabulary"] * (2 * wide_item + (item_size if item_size < 4 else 0)),
        linear=linear,
        scored=counted,
        head=sizes["vocabulary"] * hidden,
        attended=attended,
    )


@dataclass(frozen=True)
class _Block:
    """A layer's dense block, or the first of its experts.

    Attributes:
        shapes: ``(out, in)`` of its matrices, by role.
        scored_roles: Roles that are scored.
        hidden: The model's hidden size.
        is_expert: Whether it is an expert.
    """

    shapes: Mapping[str, tuple[int, int]]
    scored_roles: frozenset[str]
    hidden: int
    is_expert: bool

    @property
    def linear(self) -> int:
        return sum(map(math.prod, self.shapes.values()))

    @property
    def scored(self) -> int:
        return sum(math.prod(self.shapes[role]) for role in self.scored_roles)

    @property
    def query(self) -> int:
        return self.shapes["q"][0] if "q" in self.shapes else 0

    @property
    def width(self) -> int:
        """Width of the MLP."""
        return self.shapes["up"][0] if "up" in self.shapes else 0

    @property
    def attention(self) -> int:
        """Values that attention keeps: queries, keys, values and output."""
        if "q" not in self.shapes:
            return 0
        key, query = self.shapes["k"], self.shapes["q"]
        # Keys that are made from a latent vector have a rotated part besides: they are as wide as
        # the queries (DeepSeek).
        wide = query[0] if key[1] != self.hidden else key[0]
        kept = query[0] + wide + self.shapes["v"][0] + self.shapes["o"][1]
        return kept + ("o" in self.scored_roles) * self.shapes["o"][1]

    @property
    def inputs(self) -> int:
        """Values as wide as the model: inputs that the tap holds, and what an expert keeps."""
        held = bool(self.scored_roles & {"gate", "up"}) + bool(self.scored_roles & {"q", "k", "v"})
        return self.hidden * (held + 2 * self.is_expert)

    def mlp(self, *, composed: bool) -> int:
        """Values as wide as the MLP, its product included where the tap holds it."""
        kept = 3 if "gate" in self.shapes else 4 if composed else 1
        return self.width * (kept + ("down" in self.scored_roles))


def _blocks(layout: Layout, matrices: Sequence[MatrixId]) -> Iterator[_Block]:
    """The dense block and the first expert of each layer."""
    scored = set(matrices)
    blocks: dict[BlockId, dict[str, tuple[int, int]]] = {}
    for matrix in layout.matrices():
        if matrix.expert <= 0:
            blocks.setdefault(matrix.block, {})[matrix.role] = layout.shape(matrix)
    for block, shapes in blocks.items():
        roles = frozenset(role for role in shapes if MatrixId(*block, role) in scored)
        yield _Block(shapes, roles, layout.signature.dimensions["hidden"], block.expert != DENSE)
