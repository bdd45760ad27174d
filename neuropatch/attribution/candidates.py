"""A few weights of a matrix whose scores are computed exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch

from neuropatch.kernels import snip_accumulate_at_

BYTES_EACH = 17
"""Bytes of one candidate."""


@dataclass
class Candidates:
    """Weights in ascending order of flat index, and what is known of their scores.

    Attributes:
        rows: ``[n]`` int32.
        columns: ``[n]`` int32.
        sums: ``[n]`` float32: sums over samples of ``|dL_b/dW|`` since the weight joined.
        rest: ``[n]`` float32: upper bound of such a sum over the samples that ``sums`` leaves out.
        cohort: ``[n]`` uint8: when the weight joined, 0 for the first batch.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    sums: torch.Tensor
    rest: torch.Tensor
    cohort: torch.Tensor

    @classmethod
    def at(
        cls,
        index: torch.Tensor,
        into: int,
        rest: torch.Tensor | None = None,
        cohort: torch.Tensor | None = None,
    ) -> Candidates:
        """New candidates at ascending flat indices ``[n]`` of a matrix with ``into`` columns."""
        zeros = torch.zeros(len(index), device=index.device)
        return cls(
            (index // into).int(),
            (index % into).int(),
            zeros,
            zeros.clone() if rest is None else rest,
            zeros.to(torch.uint8) if cohort is None else cohort,
        )

    def __len__(self) -> int:
        return len(self.rows)

    def index(self, into: int) -> torch.Tensor:
        """Flat indices ``[n]``, int64."""
        return self.rows.long() * into + self.columns

    def add(self, grad: torch.Tensor, input: torch.Tensor, offsets: torch.Tensor) -> None:
        """Take in samples: ``[tokens, out]`` gradients and ``[tokens, in]`` inputs."""
        snip_accumulate_at_(self.sums, grad, input, offsets, self.rows, self.columns)

    def weights(self, weight: torch.Tensor) -> torch.Tensor:
        """``|W|`` ``[n]`` of the candidates, float32, from the matrix."""
        return weight[self.rows.long(), self.columns.long()].abs().float()

    def scores(self, weight: torch.Tensor, samples: int) -> torch.Tensor:
        """Scores ``[n]`` of candidates of the first cohort: the bits of the whole matrix's."""
        return self.sums * self.weights(weight) / samples

    def pick(self, chosen: torch.Tensor) -> Candidates:
        """Those of a mask or of indices."""
        return Candidates(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def joined(self, more: Candidates, into: int) -> Candidates:
        """These and others, in order."""
        pairs = [(getattr(self, f.name), getattr(more, f.name)) for f in fields(self)]
        both = Candidates(*(torch.cat(pair) for pair in pairs))
        return both.pick(both.index(into).argsort())

    @classmethod
    def loaded(cls, state: Mapping[str, torch.Tensor]) -> Candidates:
        """From saved columns."""
        return cls(**{field.name: state[field.name] for field in fields(cls)})

    def state(self) -> dict[str, torch.Tensor]:
        """All columns, for saving."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
