"""Coordinates: how a weight or a unit is named, whatever tensor it happens to be stored in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from neuropatch.errors import UsageError

ROLES: tuple[str, ...] = ("gate", "up", "down", "q", "k", "v", "o")
"""Linear roles of a transformer block, in canonical order (their codes in a patch file)."""

STACKS: tuple[str, ...] = ("decoder", "encoder")
"""Stacks of a model, in canonical order (their codes in a patch file)."""

TARGETS: dict[str, tuple[str, ...]] = {
    "mlp": ("gate", "up", "down"),
    "attn": ("q", "k", "v", "o"),
    "all": ROLES,
}
"""Groups of roles that ``--target`` names."""

DENSE = -1
"""The expert index of a block that is not a mixture of experts."""


class BlockId(NamedTuple):
    """One block: a layer of a stack, or one expert of that layer."""

    stack: str
    layer: int
    expert: int = DENSE

    def __str__(self) -> str:
        expert = "" if self.expert == DENSE else f".expert{self.expert}"
        return f"{self.stack}.{self.layer}{expert}"


class MatrixId(NamedTuple):
    """One weight matrix ``W``, seen as ``[out, in]``: a role of a block."""

    stack: str
    layer: int
    expert: int
    role: str

    @property
    def block(self) -> BlockId:
        """The block it belongs to."""
        return BlockId(self.stack, self.layer, self.expert)

    @property
    def sort_key(self) -> tuple[int, int, int, int]:
        """Canonical order: stack, layer, expert, role."""
        return (STACKS.index(self.stack), self.layer, self.expert, ROLES.index(self.role))

    def __str__(self) -> str:
        return f"{self.block}.{self.role}"


def parse_target(target: str) -> tuple[str, ...]:
    """Roles named by ``mlp``, ``attn``, ``all`` or a comma-separated list of roles.

    Raises:
        UsageError: If a name is unknown.
    """
    names = [name.strip() for name in target.split(",")]
    chosen: set[str] = set()
    for name in names:
        if name not in TARGETS and name not in ROLES:
            raise UsageError(
                f"unknown target '{name}'", hint=f"choose from {', '.join((*TARGETS, *ROLES))}"
            )
        chosen.update(TARGETS.get(name, (name,)))
    return sorted_roles(chosen)


def sorted_roles(roles: Iterable[str]) -> tuple[str, ...]:
    """``roles`` in canonical order."""
    return tuple(sorted(set(roles), key=ROLES.index))
