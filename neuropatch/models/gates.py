"""Gates that are in use on a model, whatever they are gates of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from torch import Tensor

from neuropatch.errors import UsageError
from neuropatch.models.coordinates import BlockId, MatrixId

Place = TypeVar("Place", BlockId, MatrixId)


class Gates(Generic[Place]):
    """The gates in use, by block (of MLP units) or by matrix (of its outputs).

    Attributes:
        masks: ``[units]`` or ``[out]`` of each gated place, read anew in each forward pass:
            float32, or float64 for a float64 model, on the place's device.
    """

    def __init__(self, masks: Mapping[Place, Tensor]) -> None:
        self.masks: dict[Place, Tensor] = dict(masks)

    def update(self, masks: Mapping[Place, Tensor]) -> None:
        """Put other masks on gated places, such as the next sample of a stochastic gate.

        Raises:
            UsageError: If a place was not gated when the context began.
        """
        unknown = set(masks) - set(self.masks)
        if unknown:
            raise UsageError(
                f"{min(unknown)} has no gates", hint="name all of them when the context begins"
            )
        self.masks.update(masks)
