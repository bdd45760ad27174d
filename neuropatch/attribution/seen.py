"""What is seen of one linear layer in one batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class Seen:
    """What one linear layer, or one expert's, did in one batch.

    Attributes:
        name: Name of the layer's weight.
        grad: ``[tokens, out]``, gradients at its output.
        input: ``[tokens, in]``, its inputs; layers that share an input are given the same memory.
        offsets: ``[samples + 1]`` int64 on the CPU: the tokens of each sample.
        expert: Index of the expert where the weight holds several, or None.
    """

    name: str
    grad: torch.Tensor
    input: torch.Tensor
    offsets: torch.Tensor
    expert: int | None = None

    @property
    def layer(self) -> tuple[str, int | None]:
        """The linear layer: a weight's name, and the expert."""
        return self.name, self.expert


def started(outputs: torch.Tensor) -> torch.Tensor:
    """Outputs that gradients reach: with frozen weights nothing may have asked for any yet."""
    return outputs if outputs.requires_grad else outputs.requires_grad_()
